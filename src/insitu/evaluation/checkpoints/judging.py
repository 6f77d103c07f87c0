"""What a generated picture shows, as a CLIP model and a zero-shot detector see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import Box, Detection, ZeroShotDetector
from insitu.perception.dino import crop_square
from insitu.world.captions import article

Image = NDArray[np.uint8]
SIDE = 64
PRESENT = 0.1
"""Lowest detector score at which a thing that was asked for counts as there.

Low, since at 0.3 two things are both found in two thirds of true 64-pixel pictures only. What it
costs in false finds is a figure too: flux's card has the floor beside the ceiling.
"""


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

    def main_boxes(self, images: Sequence[Image]) -> list[Box]:
        """The most confident box over all categories; the whole picture where there is none."""
        found = self.detector.detect(images, _CATEGORY_QUERIES, threshold=0.05)
        return [each[0].box_xyxy01 if each else (0.0, 0.0, 1.0, 1.0) for each in found]

    def categories(self, images: Sequence[Image], boxes: Sequence[Box]) -> list[str]:
        """Each box's category by CLIP's zero-shot choice."""
        return self._choices(images, boxes, _CATEGORY_QUERIES, world.CATEGORIES)

    def colours(
        self, images: Sequence[Image], boxes: Sequence[Box], categories: Sequence[str]
    ) -> list[str]:
        """Each box's colour by CLIP's zero-shot choice, its category given."""
        names = tuple(world.COLOURS)
        chosen = [""] * len(images)
        for category in sorted(set(categories)):
            rows = [i for i, other in enumerate(categories) if other == category]
            prompts = [article(f"{name} {category}") for name in names]
            found = self._choices(
                [images[i] for i in rows], [boxes[i] for i in rows], prompts, names
            )
            for i, name in zip(rows, found, strict=True):
                chosen[i] = name
        return chosen

    def present(
        self, images: Sequence[Image], queries: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Each image's best score for each of its queries, 0 below `PRESENT`.

        One box never answers two queries.
        """
        asked = sorted({query for own in queries for query in own})
        found = self.detector.detect(images, asked, threshold=PRESENT)
        return [_scores(each, own) for each, own in zip(found, queries, strict=True)]

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


def _scores(found: Sequence[Detection], queries: Sequence[str]) -> list[float]:
    scores = dict.fromkeys(queries, 0.0)
    taken: set[Box] = set()
    for detection in found:
        if scores.get(detection.query) == 0.0 and detection.box_xyxy01 not in taken:
            scores[detection.query] = detection.score
            taken.add(detection.box_xyxy01)
    return [scores[query] for query in queries]
