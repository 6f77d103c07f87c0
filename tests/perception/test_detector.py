"""Proves ZeroShotDetector's contract on tiny random OWL-ViT and Grounding DINO models.

Needs transformers' own classes; no trained weights.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoProcessor,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    pipeline,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import (
    GroundingDinoImageProcessorPil,
)
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from insitu.errors import UserError
from insitu.perception.detector import ZeroShotDetector, _suppressed, iou
from recipe.tokenizers import clip_tokenizer

QUERIES = ["a mug", "a red cat"]


@pytest.fixture(scope="module")
def owl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("owl")
    tokenizer = clip_tokenizer(["a", "red", "mug", "cat"], path, max_length=8)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    config = OwlViTConfig(
        text_config=shape | {"vocab_size": len(tokenizer), "max_position_embeddings": 8},
        vision_config=shape | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    OwlViTForObjectDetection(config).save_pretrained(path)
    processor = OwlViTImageProcessorPil(size={"height": 32, "width": 32})
    OwlViTProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grounding-dino")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "a", "red", "mug", "cat"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    torch.manual_seed(0)
    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "window_size": 2,
            "num_heads": [1, 1, 1, 1], "out_features": ["stage2", "stage3", "stage4"],
            "image_size": 64,
        },
        text_config={
            "model_type": "bert", "vocab_size": 16, "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16,
        },
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=6, max_text_len=16,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(path)
    processor = GroundingDinoImageProcessorPil(size={"height": 64, "width": 64})
    GroundingDinoProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(path)
    return path


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((32, 32, 3), (40, 64, 3))]


@pytest.mark.parametrize("name", ["owl", "dino"])
def test_detections_are_sorted_boxes_inside_the_image(
    name: str, request: pytest.FixtureRequest
) -> None:
    detector = ZeroShotDetector.from_pretrained(request.getfixturevalue(name))
    found = detector.detect(pictures(), QUERIES, threshold=0.0)
    assert len(found) == 2
    for detections in found:
        assert {d.query for d in detections} == set(QUERIES)
        scores = [d.score for d in detections]
        assert scores == sorted(scores, reverse=True)
        for d in detections:
            left, top, right, bottom = d.box_xyxy01
            assert 0 <= left <= right <= 1
            assert 0 <= top <= bottom <= 1
    assert detector.detect(pictures(), QUERIES, threshold=1.0) == [[], []]


def test_owl_agrees_with_the_models_own_forward(owl: Path) -> None:
    detector = ZeroShotDetector.from_pretrained(owl)
    images = [image[:32, :32] for image in pictures()]
    inputs = detector.processor(images=images, text=[QUERIES] * 2, return_tensors="pt")
    with torch.no_grad():
        outputs = detector.model(**inputs)
        logits, boxes = detector._answers(images, QUERIES)
    torch.testing.assert_close(logits, outputs.logits)
    torch.testing.assert_close(boxes, outputs.pred_boxes)


def test_each_query_is_answered_on_its_own(owl: Path) -> None:
    detector = ZeroShotDetector.from_pretrained(owl)
    both = detector.detect(pictures(), QUERIES, threshold=0.0)
    alone = detector.detect(pictures(), QUERIES[:1], threshold=0.0)
    for together, single in zip(both, alone, strict=True):
        own = [d for d in together if d.query == QUERIES[0]]
        assert [d.score for d in own] == pytest.approx([d.score for d in single], abs=1e-6)


def test_plain_pipeline_reads_the_same_folder(owl: Path) -> None:
    from PIL import Image

    detect = pipeline("zero-shot-object-detection", model=str(owl))
    assert detect(Image.fromarray(pictures()[0]), candidate_labels=QUERIES, threshold=0.0)


@pytest.mark.parametrize("queries", [[], ["a mug", " "]])
def test_empty_queries_are_refused(owl: Path, queries: list[str]) -> None:
    with pytest.raises(UserError, match="nothing to look for"):
        ZeroShotDetector.from_pretrained(owl).detect(pictures(), queries)


coordinate = st.floats(0, 1, allow_subnormal=False)
boxes = st.lists(
    st.tuples(coordinate, coordinate, coordinate, coordinate).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    ),
    min_size=1,
    max_size=8,
)


@given(boxes)
def test_iou_is_symmetric_and_bounded(corners: list[tuple[float, ...]]) -> None:
    table = torch.tensor(corners)
    overlap = iou(table, table)
    assert torch.allclose(overlap, overlap.T)
    assert overlap.min() >= 0
    assert overlap.max() <= 1 + 1e-5


@given(boxes, st.floats(0.1, 0.9))
def test_suppression_keeps_the_best_and_no_two_alike(
    corners: list[tuple[float, ...]], overlap: float
) -> None:
    scores = torch.linspace(0.1, 0.9, len(corners))
    kept = _suppressed(scores, torch.tensor(corners), overlap)
    assert kept[0][0] == scores.max()
    shown = torch.stack([box for _, box in kept])
    between = iou(shown, shown).fill_diagonal_(0)
    assert between.max() <= overlap
