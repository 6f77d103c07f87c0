"""Proves that the dino checkpoint loads with the plain class and is as good as its card says.

Needs models/nano/dino and the world; a minute of drawing at most. Unit tests of the recipe need
neither weights nor training.
"""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoImageProcessor, Dinov2Model

from insitu import world
from insitu.digest import weights_digest
from insitu.evaluation.checkpoints import dino
from recipe import dino as recipe
from recipe.settings import read

FOLDER = Path(__file__).resolve().parents[2] / "models" / "nano" / "dino"


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text())


def test_plain_class_loads_without_missing_or_unexpected_keys(card: dict) -> None:
    model, report = Dinov2Model.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    processor = AutoImageProcessor.from_pretrained(FOLDER)
    pixels = processor(images=np.zeros((80, 64, 3), np.uint8), return_tensors="pt")["pixel_values"]
    assert model(pixels).pooler_output.shape == (1, model.config.hidden_size)
    assert card["weights_digest"] == weights_digest(FOLDER)
    assert card["world_version"] == world.WORLD_VERSION


def test_small(card: dict) -> None:
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 5e6
    assert card["model_class"] == "Dinov2Model"


def test_card_is_reproduced_on_a_small_sample(card: dict) -> None:
    measured = dino.figures(FOLDER, count=100, seed=1)
    assert measured.keys() == card["figures"].keys()
    for name, figure in measured.items():
        stated = card["figures"][name]
        assert figure.low <= stated["high"], name
        assert stated["low"] <= figure.high, name


def test_a_twin_has_the_same_words_and_another_identity() -> None:
    rng = world.rng_for("test", "twin")
    for _ in range(10):
        subject = world.sample_subject(rng)
        other = dino.twin(subject, rng)
        assert world.describe(other) == world.describe(subject)
        assert not np.array_equal(other.vector(), subject.vector())


def test_held_out_galleries_repeat_and_differ_by_seed() -> None:
    rng = [world.rng_for("test", n) for n in (0, 0, 1)]
    subject = world.sample_subject(world.rng_for("test", "subject"))
    first, same, other = (dino.scene_crop(subject, r, size=64) for r in rng)
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_contrastive_loss_is_the_papers_formula() -> None:
    random = torch.Generator().manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(6, 4, generator=random))
    identity = torch.tensor([0, 0, 1, 1, 1, 0])
    logits = (features @ features.T / 0.1).double()
    terms = []
    for i in range(6):
        others = [j for j in range(6) if j != i]
        positives = [j for j in others if identity[j] == identity[i]]
        log_sum = math.log(sum(math.exp(logits[i, j]) for j in others))
        terms.append(-sum(logits[i, j].item() - log_sum for j in positives) / len(positives))
    found = recipe.contrastive_loss(features, identity, 0.1)
    assert found.item() == pytest.approx(sum(terms) / 6, abs=1e-4)


def test_a_step_is_a_function_of_its_number_and_kept_tokens_are_what_the_model_sees() -> None:
    settings = replace(read("dino", recipe.Settings), batch_families=3, views=4, width=16, heads=2)
    crops = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 64, 64, 3), dtype=np.uint8)
    first, same = recipe.batch(crops, 7, settings), recipe.batch(crops, 7, settings)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True) if a is not None)
    pixels, identities, _ = first
    assert pixels.shape == (24, 3, 64, 64)
    assert identities.unique(return_counts=True)[1].tolist() == [2] * 12
    model = recipe.make_model(settings).eval()
    everything = recipe.features(model, pixels[:2], torch.arange(64))
    assert torch.allclose(everything, recipe.features(model, pixels[:2]), atol=1e-5)
    pixels[:2, :, :8, :8] = 0
    rest = torch.arange(1, 64)
    without = recipe.features(model, pixels[:2], rest)
    pixels[:2, :, :8, :8] = 1
    assert torch.equal(without, recipe.features(model, pixels[:2], rest))
