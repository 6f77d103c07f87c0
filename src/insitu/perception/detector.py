"""Zero-shot detection: boxes for free-text queries (OWL-ViT, OWLv2, Grounding DINO).

Minderer et al., "Simple Open-Vocabulary Object Detection with Vision Transformers" (2022).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

from insitu.errors import UserError

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
BATCH = 32  # images per forward pass


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One found thing: the query it answers, its score in 0..1, its box within the image."""

    query: str
    score: float
    box_xyxy01: Box


class ZeroShotDetector:
    """Finds what queries name; any model of transformers' zero-shot detection classes."""

    def __init__(self, *, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        # OWL scores every query at once; others (Grounding DINO) read one text per image.
        self._scores_queries_jointly = hasattr(model, "class_predictor")

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a zero-shot detector from a folder or hub id."""
        model = AutoModelForZeroShotObjectDetection.from_pretrained(
            path, revision=revision, dtype=dtype
        )
        processor = AutoProcessor.from_pretrained(path, revision=revision)
        return cls(model=model.to(device).eval(), processor=processor)

    @torch.no_grad()
    def detect(
        self,
        images: Sequence[Image],
        queries: Sequence[str],
        *,
        threshold: float = 0.3,
        overlap: float = 0.5,
    ) -> list[list[Detection]]:
        """Return each image's detections, best first.

        Args:
            images: RGB images of any sizes.
            queries: what to look for, e.g. "a red mug"; each is answered on its own.
            threshold: lowest score kept, 0..1.
            overlap: of two boxes for one query with a larger IoU, the weaker is dropped.

        Raises:
            UserError: no query, or an empty one.
        """
        if not queries or not all(query.strip() for query in queries):
            raise UserError(
                f"The queries {list(queries)} were given.",
                "An empty query names nothing to look for.",
                'Name each thing, e.g. "a red mug".',
            )
        found: list[list[Detection]] = []
        for start in range(0, len(images), BATCH):
            part = list(images[start : start + BATCH])
            for per_query in zip(*self._candidates(part, queries, threshold), strict=True):
                kept = [
                    Detection(query=query, score=float(score), box_xyxy01=_clamped(box))
                    for query, (scores, boxes) in zip(queries, per_query, strict=True)
                    for score, box in _suppressed(scores, boxes, overlap)
                    if _area(box.clamp(0, 1)) > 0
                ]
                found.append(sorted(kept, key=lambda d: -d.score))
        return found

    def _candidates(
        self, images: list[Image], queries: Sequence[str], threshold: float
    ) -> list[list[tuple[Tensor, Tensor]]]:
        """Scores [K] and relative boxes [K, 4], by query, then by image."""
        if self._scores_queries_jointly:
            logits, boxes = self._answers(images, queries)
            # Post-processing keeps a box's best query only, so each query is shown alone.
            shown = [
                SimpleNamespace(logits=logits[..., i : i + 1], pred_boxes=boxes)
                for i in range(len(queries))
            ]
            return [self._boxes(each, len(images), threshold) for each in shown]
        by_query = []
        for query in queries:
            text = query.lower().rstrip(".") + "."
            inputs = self.processor(
                images=images, text=[text] * len(images), return_tensors="pt"
            ).to(self.model.device)
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
            outputs = self.model(**inputs)
            ids = inputs["input_ids"]
            by_query.append(
                self._boxes(outputs, len(images), threshold, input_ids=ids, text_threshold=0.0)
            )
        return by_query

    def _answers(self, images: list[Image], queries: Sequence[str]) -> tuple[Tensor, Tensor]:
        """OWL's logits [N, P, Q] and boxes [N, P, 4].

        By parts, since its `forward` would encode every query again for every image.
        """
        model, device = self.model, self.model.device
        text = self.processor.tokenizer(
            list(queries), padding=True, truncation=True, return_tensors="pt"
        ).to(device)
        embedded = model.base_model.get_text_features(**text).pooler_output
        pixels = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        feature_map = model.image_embedder(pixel_values=pixels.to(device, model.dtype))[0]
        features = feature_map.flatten(1, 2)
        logits, _ = model.class_predictor(features, embedded.expand(len(images), -1, -1))
        return logits, model.box_predictor(features, feature_map)

    def _boxes(
        self, outputs: Any, count: int, threshold: float, **options: Any
    ) -> list[tuple[Tensor, Tensor]]:
        results = self.processor.post_process_grounded_object_detection(
            outputs, threshold=threshold, target_sizes=[(1, 1)] * count, **options
        )
        return [(r["scores"].float().cpu(), r["boxes"].float().cpu()) for r in results]


def iou(boxes_N4: Tensor, others_M4: Tensor) -> Tensor:
    """Intersection over union [N, M] of boxes given by their corners; 0 where both are empty."""
    left_top = torch.maximum(boxes_N4[:, None, :2], others_M4[None, :, :2])
    right_bottom = torch.minimum(boxes_N4[:, None, 2:], others_M4[None, :, 2:])
    shared = (right_bottom - left_top).clamp(min=0).prod(dim=-1)
    areas, other_areas = _area(boxes_N4), _area(others_M4)
    union = areas[:, None] + other_areas[None, :] - shared
    return shared / union.clamp(min=1e-9)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def _suppressed(scores: Tensor, boxes: Tensor, overlap: float) -> list[tuple[Tensor, Tensor]]:
    """Greedy non-maximum suppression: (score, box) pairs, best first."""
    kept: list[int] = []
    too_close = (iou(boxes, boxes) > overlap).tolist()
    for index in scores.argsort(descending=True).tolist():
        if not any(too_close[index][other] for other in kept):
            kept.append(index)
    return [(scores[i], boxes[i]) for i in kept]


def _clamped(box: Tensor) -> Box:
    left, top, right, bottom = box.clamp(0, 1).tolist()
    return left, top, right, bottom
