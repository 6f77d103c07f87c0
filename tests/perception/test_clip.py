"""Proves ClipScorer's contract on a tiny random CLIPModel, saved and loaded as any other.

Needs transformers' CLIP classes and the recipes' tokenizer; no trained weights.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu.errors import UserError
from insitu.perception.clip import BATCH, AestheticHead, ClipScorer
from recipe.tokenizers import clip_tokenizer

WORDS = ["a", "red", "mug", "cat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    tokenizer = clip_tokenizer(WORDS, path)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config=shape | text,
        vision_config=shape | {"image_size": 16, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(path)
    side = {"height": 16, "width": 16}
    processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def scorer(folder: Path) -> ClipScorer:
    return ClipScorer.from_pretrained(folder)


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(count)]


def test_embeddings_are_unit_and_agree_with_the_model(scorer: ClipScorer) -> None:
    images, texts = pictures(3), ["a red mug", "a cat"]
    inputs = scorer.processor(text=texts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        reference = scorer.model(**inputs)
    torch.testing.assert_close(scorer.embed_images(images), reference.image_embeds)
    torch.testing.assert_close(scorer.embed_texts(texts), reference.text_embeds)
    probabilities = reference.logits_per_image.softmax(dim=1)
    torch.testing.assert_close(scorer.zero_shot(images, texts), probabilities)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))


def test_batches_do_not_change_embeddings(scorer: ClipScorer) -> None:
    images = pictures(BATCH + 2)
    whole = scorer.embed_images(images)
    assert whole.shape == (BATCH + 2, 16)
    torch.testing.assert_close(whole[-1:], scorer.embed_images(images[-1:]))


def test_long_text_is_cut(scorer: ClipScorer) -> None:
    assert scorer.embed_texts(["a red mug " * 60]).shape == (1, 16)


@pytest.mark.parametrize("call", ["embed_images", "embed_texts"])
def test_empty_input_is_refused(scorer: ClipScorer, call: str) -> None:
    with pytest.raises(UserError, match="empty list"):
        getattr(scorer, call)([])


def test_aesthetic_needs_a_head(scorer: ClipScorer) -> None:
    with pytest.raises(UserError, match=r"aesthetic\.json"):
        scorer.aesthetic(pictures(1))


def test_aesthetic_head_is_saved_beside_clip(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    head = AestheticHead(16, hidden=4).to(torch.bfloat16).float()  # as precise as it is saved
    head.save(tmp_path)
    scorer = ClipScorer.from_pretrained(tmp_path)
    images = pictures(2)
    with torch.no_grad():
        expected = head(scorer.embed_images(images))
    torch.testing.assert_close(scorer.aesthetic(images), expected)
