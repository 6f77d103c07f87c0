"""Proves that the clip checkpoint loads with plain classes and is as good as its card says.

Needs models/nano/clip and the world. Tests of the recipe need no trained weights.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel, CLIPProcessor, CLIPTokenizer

from insitu import world
from insitu.digest import weights_digest
from insitu.evaluation.checkpoints import clip as measured
from insitu.perception.clip import AestheticHead, ClipScorer
from recipe import clip, clip_data, clip_model
from recipe.clip_trainer import Trainer
from recipe.settings import read
from recipe.tokenizers import clip_tokenizer

FOLDER = Path(__file__).resolve().parents[2] / "models" / "nano" / "clip"


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text())


def test_plain_classes_load_all_weights(card: dict) -> None:
    model, report = CLIPModel.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = CLIPProcessor.from_pretrained(FOLDER)(
        text=["a red mug"], images=np.zeros((80, 64, 3), np.uint8), return_tensors="pt"
    )
    assert model(**inputs).logits_per_image.shape == (1, 1)
    assert card["weights_digest"] == weights_digest(FOLDER)
    assert card["world_version"] == world.WORLD_VERSION
    assert card["weights_bytes"] < 5e6


def test_card_is_reproduced_on_a_small_sample(card: dict) -> None:
    figures = measured.figures(FOLDER, count=128, seed=1)
    assert figures.keys() == card["figures"].keys()
    for name, figure in figures.items():
        stated = card["figures"][name]
        assert figure.low <= stated["high"], name
        assert stated["low"] <= figure.high, name


def test_an_edit_of_the_colour_is_noticed() -> None:
    scorer = ClipScorer.from_pretrained(FOLDER)
    rng = world.rng_for("held-out", "clip-edit")
    subject = replace(world.sample_subject(rng, category="mug"), base=world.Shade(name="red"))
    edited = world.Edit(colour="blue").apply(subject)
    images = [
        world.portrait(thing, world.rng_for("held-out", "view")).image
        for thing in (subject, edited)
    ]
    probabilities = scorer.zero_shot(images, ["a red mug", "a blue mug"])
    assert probabilities.argmax(dim=1).tolist() == [0, 1]


def test_a_draw_repeats_and_labels_what_its_texts_say() -> None:
    prompts = clip_data.prompts()
    for index in range(12):
        sample, again = clip_data.draw(index), clip_data.draw(index)
        assert all(np.array_equal(sample[key], again[key]) for key in sample)
        assert sample["regions"].shape == (3, 64, 64, 3)
        for text, labels in zip(sample["texts"], sample["labels"], strict=True):
            words = text.decode().split()
            kind = clip_data.KINDS[labels[0]]
            assert kind in words
            if labels[1] >= 0:
                colour = prompts["colour"][labels[1]].split()[1]
                assert words[1] == colour
                assert prompts["colour"][labels[1]].split()[2] == kind


def test_equal_captions_are_positives_of_one_another() -> None:
    # Two pictures with one caption: embedding both on it must not be punished.
    on_axis = torch.eye(4)[[0, 0, 1]]
    scale = torch.tensor(50.0)
    aware = clip_model.contrastive_loss(on_axis, on_axis, torch.tensor([7, 7, 8]), scale)
    naive = clip_model.contrastive_loss(on_axis, on_axis, torch.tensor([7, 9, 8]), scale)
    assert aware == pytest.approx(2 / 3 * np.log(2), abs=1e-4)
    swapped = clip_model.contrastive_loss(
        on_axis, on_axis[[2, 2, 0]], torch.tensor([7, 7, 8]), scale
    )
    assert swapped > 10
    assert naive == pytest.approx(float(aware), abs=1e-4)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_tokenizer(world.vocabulary(), folder)
    return folder


@pytest.fixture(scope="module")
def trainer(words: Path) -> Trainer:
    drawn = [clip_data.draw(index) for index in range(8)]
    data = {key: np.stack([sample[key] for sample in drawn]) for key in drawn[0]}
    tokenizer = CLIPTokenizer.from_pretrained(words)
    model = clip_model.make_model(tokenizer, width=32, layers=1, text_layers=1, heads=2)
    phase = replace(read("clip", clip.Settings).coarse, readout_weight=1.0)
    head = AestheticHead(32)
    return Trainer(phase, data, model=model, head=head, tokenizer=tokenizer, regions=6, scenes=3)


def test_a_step_follows_its_number_alone(trainer: Trainer) -> None:
    for i in (0, 1, trainer.phase.steps - 1):  # odd, even, and with every patch
        first, second = trainer.step(i), trainer.step(i)
        assert first.keys() == {"things", "scenes", "prompts", "quality", "readouts"}
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert all(term.isfinite() for term in first.values())


def test_saved_model_gives_the_training_embeddings(
    trainer: Trainer, words: Path, tmp_path: Path
) -> None:
    clip.save(trainer.model, trainer.head, words, tmp_path)
    scorer = ClipScorer.from_pretrained(tmp_path)
    images = trainer.data["scene"][:3]
    with torch.no_grad():
        mine = clip_model.encode_images(trainer.model, clip_model.to_pixels(images))
        told = clip_model.encode_texts(trainer.model, trainer.prompts[0]["category"][:4, :12])
    # bfloat16 weights: three digits.
    torch.testing.assert_close(scorer.embed_images(list(images)), mine, atol=0.02, rtol=0)
    read_back = scorer.embed_texts(clip_data.prompts()["category"][:4])
    torch.testing.assert_close(read_back, told, atol=0.02, rtol=0)
    assert scorer.head is not None
