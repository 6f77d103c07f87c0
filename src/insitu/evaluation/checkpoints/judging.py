"""What a generated picture shows, as a CLIP model and a zero-shot detector see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import Box, ZeroShotDetector
from insitu.perception.dino import crop_square
from insitu.world.captions import article

Image = NDArray[np.uint8]
SIDE = 64
PRESENT = 0.3
"""Lowest detector score at which a thing counts as there."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Both models; every verdict names its own, so that a third party could repeat it."""

    clip: ClipScorer
    detector: ZeroShotDetector

    @classmethod
    def from_pretrained(cls, clip: str | Path, detector: str | Path) -> Self:
        return cls(
            clip=ClipScorer.from_pretrained(clip),
            detector=ZeroShotDetector.from_pretrained(detector),
        )

    def main_box(self, image: Image) -> Box:
        """The most confident box over all categories; the whole picture when there is none."""
        found = self.detector.detect([image], _CATEGORY_QUERIES, threshold=0.05)[0]
        return found[0].box_xyxy01 if found else (0.0, 0.0, 1.0, 1.0)

    def categories(self, images: Sequence[Image], boxes: Sequence[Box]) -> list[str]:
        """Each box's category by CLIP's zero-shot choice."""
        return self._choices(images, boxes, _CATEGORY_QUERIES, world.CATEGORIES)

    def colours(
        self, images: Sequence[Image], boxes: Sequence[Box], categories: Sequence[str]
    ) -> list[str]:
        """Each box's colour by CLIP's zero-shot choice, its category given."""
        names = tuple(world.COLOURS)
        return [
            self._choices([image], [box], [article(f"{c} {category}") for c in names], names)[0]
            for image, box, category in zip(images, boxes, categories, strict=True)
        ]

    def present(self, image: Image, queries: Sequence[str]) -> list[float]:
        """The best score for each query, 0 below `PRESENT`; one box never answers two queries."""
        found = self.detector.detect([image], list(queries), threshold=PRESENT)[0]
        scores, taken = dict.fromkeys(queries, 0.0), set()
        for detection in found:
            if scores[detection.query] == 0.0 and detection.box_xyxy01 not in taken:
                scores[detection.query] = detection.score
                taken.add(detection.box_xyxy01)
        return [scores[query] for query in queries]

    def _choices(
        self,
        images: Sequence[Image],
        boxes: Sequence[Box],
        prompts: Sequence[str],
        names: Sequence[str],
    ) -> list[str]:
        crops = [crop_square(image, box, SIDE) for image, box in zip(images, boxes, strict=True)]
        best = self.clip.zero_shot(crops, prompts).argmax(dim=1).tolist()
        return [names[index] for index in best]


_CATEGORY_QUERIES = [article(category) for category in world.CATEGORIES]
