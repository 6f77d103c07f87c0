"""Is everything there, and where it was asked to be? As a zero-shot detector sees it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from insitu.evaluation.metrics.cases import (
    Box,
    Case,
    Entity,
    Image,
    Photo,
    Remembered,
    missing,
)
from insitu.evaluation.metrics.regions import Regions, entities, given, refs
from insitu.evaluation.metrics.scores import Failure, Parts, Scale, Scores, score
from insitu.perception.detector import Detection, ZeroShotDetector, iou
from insitu.perception.segmenter import Segmenter

FARTHEST = 2.0
"""Location errors end here, in diagonals of the asked box: beyond, a thing is simply elsewhere."""
_NEVER = 1e6
"""Cost of a detection that does not answer an entity's text; no distance comes near it."""


class EntityFinder:
    """Which detection answers which entity, for all metrics about places.

    A thing that stood in the source picture before and answers an entity's text counts as found,
    if nothing nearer does: recall is then too kind, and the location error tells.
    """

    def __init__(
        self, detector: ZeroShotDetector, *, threshold: float, overlap: float = 0.5
    ) -> None:
        """Set what counts.

        Args:
            threshold: lowest score at which a thing counts as there, 0..1.
            overlap: boxes with a larger IoU are one thing, which answers one entity at most.
        """
        self.detector, self.threshold, self.overlap = detector, threshold, overlap
        self.cases: Remembered[Case, list[Detection | None]] = Remembered(self._find)
        """For each case, what was found for each of its entities."""

    def _find(self, cases: list[Case]) -> list[list[Detection | None]]:
        # Detectors that read one text a picture would answer every other case's queries in vain.
        alike: dict[tuple[str, ...], list[Case]] = {}
        for case in cases:
            texts = sorted({given(entity.text) for entity in entities(case)})
            alike.setdefault(tuple(texts), []).append(case)
        found: dict[Case, list[Detection | None]] = {}
        for queries, own in alike.items():
            detections = self.detector.detect(
                [case.picture for case in own],
                queries,
                threshold=self.threshold,
                overlap=self.overlap,
            )
            for case, each in zip(own, detections, strict=True):
                found[case] = assign(case.entities, each, case.picture, self.overlap)
        return [found[case] for case in cases]


def assign(
    asked: Sequence[Entity], detections: Sequence[Detection], image_HWC: Image, overlap: float
) -> list[Detection | None]:
    """Give each entity a detection of its own text, or None.

    As many entities as possible are given one, and then those with the least total distance between
    the centres of detected and asked boxes (Hungarian method). Boxes that overlap by more than an
    IoU of `overlap` are one thing, whatever texts they answer.
    """
    things = _things(detections, overlap)
    costs = np.full((len(asked), len(things)), _NEVER)
    for i, entity in enumerate(asked):
        for j, thing in enumerate(things):
            if entity.text in thing:
                costs[i, j] = distance(thing[entity.text].box_xyxy01, entity.box_xyxy01, image_HWC)
    found: list[Detection | None] = [None] * len(asked)
    for i, j in zip(*linear_sum_assignment(costs), strict=True):
        if costs[i, j] < _NEVER:
            found[i] = things[j][asked[i].text]
    return found


def _things(detections: Sequence[Detection], overlap: float) -> list[dict[str, Detection]]:
    """Detections by thing and text, the best of each; the first of a thing says where it is."""
    things: list[dict[str, Detection]] = []
    for detection in sorted(detections, key=lambda d: -d.score):
        box = torch.tensor([detection.box_xyxy01])
        for thing in things:
            first = next(iter(thing.values()))
            if iou(box, torch.tensor([first.box_xyxy01])).item() > overlap:
                thing.setdefault(detection.query, detection)
                break
        else:
            things.append({detection.query: detection})
    return things


def distance(found_xyxy01: Box, asked_xyxy01: Box, image_HWC: Image) -> float:
    """Distance of two boxes' centres in pixels, in shares of the second's diagonal."""
    size = np.array(image_HWC.shape[1::-1])
    found, asked = (np.reshape(box, (2, 2)) * size for box in (found_xyxy01, asked_xyxy01))
    return float(
        np.linalg.norm(found.mean(0) - asked.mean(0)) / np.linalg.norm(asked[1] - asked[0])
    )


def _not_found(entity: Entity) -> Failure:
    return Failure(f"{entity.text} was not found")


class EntityRecall:
    """1 for an entity that is found, wherever it stands, and 0 for one that is missing."""

    def __init__(self, finder: EntityFinder, *, name: str = "entity_recall") -> None:
        self.finder = finder
        self.scale = Scale(name=name, low=0, high=1, higher_is_better=True, unit="share found")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [tuple(float(d is not None) for d in own) for own in self.finder.cases(cases)]


class EntityInMask:
    """1 for an entity whose found box overlaps its mask's box by an IoU of one half, else 0."""

    scale = Scale(name="in_mask", low=0, high=1, higher_is_better=True, unit="share in place")

    def __init__(self, finder: EntityFinder, *, least: float = 0.5) -> None:
        """`least` = the IoU that counts as in place, 0..1."""
        self.finder, self.least = finder, least

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(
                float(d is not None and _box_iou(d.box_xyxy01, entity.box_xyxy01) >= self.least)
                for entity, d in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.finder.cases(cases), strict=True)
        ]


class FoundLikeness:
    """Mean cosine of what is found with the entity's references, wherever it stands, -1..1.

    DINO for pictures that are asked for without places; what is not found has -1.
    """

    scale = Scale(name="dino_found", low=-1, high=1, higher_is_better=True, unit="cosine")

    def __init__(self, finder: EntityFinder, regions: Regions) -> None:
        self.finder, self.regions = finder, regions

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        found = self.finder.cases(cases)
        seen = [
            [None if d is None else _there(case, d) for d in own]
            for case, own in zip(cases, found, strict=True)
        ]
        asked = [photo for own in seen for photo in own if photo is not None]
        asked += [photo for case in cases for entity in case.entities for photo in refs(entity)]
        known = dict(zip(asked, self.regions.photos(asked), strict=True))
        return [
            tuple(
                _not_found(entity)
                if photo is None
                else float(torch.stack([known[p] @ known[photo] for p in refs(entity)]).mean())
                for entity, photo in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, seen, strict=True)
        ]


def _there(case: Case, found: Detection) -> Photo:
    return Photo(image=case.picture, box_xyxy01=found.box_xyxy01)


class LocationError:
    """Distance of the found box's centre from the asked box's, in shares of the asked diagonal.

    0..2: what is farther off than two diagonals counts as two, and so does what is not found.
    """

    scale = Scale(
        name="location_error", low=0, high=FARTHEST, higher_is_better=False,
        unit="diagonals of the asked box",
    )  # fmt: skip

    def __init__(self, finder: EntityFinder) -> None:
        self.finder = finder

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(
                _not_found(entity)
                if d is None
                else min(FARTHEST, distance(d.box_xyxy01, entity.box_xyxy01, case.picture))
                for entity, d in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.finder.cases(cases), strict=True)
        ]


class BoxIoU:
    """Intersection over union of the found box with the asked box, 0..1."""

    scale = Scale(name="box_iou", low=0, high=1, higher_is_better=True, unit="IoU")

    def __init__(self, finder: EntityFinder) -> None:
        self.finder = finder

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(
                _not_found(entity) if d is None else _box_iou(d.box_xyxy01, entity.box_xyxy01)
                for entity, d in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.finder.cases(cases), strict=True)
        ]


def _box_iou(one: Box, other: Box) -> float:
    return float(iou(torch.tensor([one]), torch.tensor([other])))


class MaskIoU:
    """Intersection over union of the found entity's mask with the asked mask, 0..1.

    The detector finds the box, the segmenter cuts the thing out of it.
    """

    scale = Scale(name="mask_iou", low=0, high=1, higher_is_better=True, unit="IoU")

    def __init__(self, finder: EntityFinder, segmenter: Segmenter) -> None:
        self.finder, self.segmenter = finder, segmenter

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(
                _not_found(entity) if d is None else self._iou(case.picture, entity, d)
                for entity, d in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.finder.cases(cases), strict=True)
        ]

    def _iou(self, image: Image, entity: Entity, found: Detection) -> float | Failure:
        if entity.mask_HW is None:
            raise missing("masks", "an entity's shape was not asked for")
        if entity.mask_HW.shape != image.shape[:2]:
            return Failure("the picture is not of its masks' size")
        (mask,) = self.segmenter.segment([image], [found.box_xyxy01])
        return mask_iou(mask, entity.mask_HW)


def mask_iou(one_HW: NDArray[np.bool_], other_HW: NDArray[np.bool_]) -> float:
    """Shared pixels over all pixels of two masks; 0 where both are empty."""
    union = int((one_HW | other_HW).sum())
    return int((one_HW & other_HW).sum()) / union if union else 0.0
