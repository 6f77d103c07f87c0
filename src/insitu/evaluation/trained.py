"""A trained method against its untrained self: the same requests and seeds, its own measure."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from insitu import world
from insitu.errors import UserError
from insitu.evaluation.comparison import compare
from insitu.evaluation.findings import Finding
from insitu.evaluation.measurement import Measured, measured
from insitu.evaluation.metrics import Case, Entity, Image, Metric, Photo, Scores
from insitu.evaluation.metrics.attributes import AttributeAccuracy, AttributeReader
from insitu.evaluation.metrics.edges import BackgroundChange, SeamVisibility
from insitu.evaluation.metrics.entities import (
    BoxIoU,
    EntityFinder,
    EntityInMask,
    EntityRecall,
    FoundLikeness,
    LocationError,
    MaskIoU,
)
from insitu.evaluation.metrics.faces import FaceCopyPaste, FaceFound, FaceLikeness, FaceReader
from insitu.evaluation.metrics.regions import (
    PictureText,
    RegionIdentity,
    RegionLikeness,
    Regions,
    RegionText,
)
from insitu.methods import Method, Placement, Request
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.perception.face_finder import FaceFinder
from insitu.perception.segmenter import GrabCut
from insitu.randomness import rng_for

WAYS = ("trained", "untrained")
AROUND = 0.1
"""Least IoU of a face with the box of its five landmarks, which is smaller."""
MEASURES = {
    "inpaint_anywhere": ("own_box", "dino", "found", "background_mean"),
    "anyphoto": ("face_sim_ref", "face_found"),
    "uno": ("dino_found", "found", "clip_t_global"),
    "lar_gen": ("clip_i", "dino", "clip_t", "found", "background_mean"),
    "eligen": ("in_mask", "box_iou", "entity_recall", "location_error", "clip_t"),
}
"""Metrics by method, its own measure first."""


@dataclass(frozen=True, kw_only=True)
class Eyes:
    """The models that judge; `present` = lowest score at which a thing counts as there, 0..1."""

    clip: ClipScorer
    dino: IdentityEncoder
    detector: ZeroShotDetector
    faces: FaceFinder
    present: float

    @functools.cached_property
    def reader(self) -> FaceReader:
        """Of faces, for all face metrics."""
        return FaceReader(self.faces, overlap=AROUND)

    def metrics(self, method: str) -> list[Metric]:
        """Those of a method."""
        return self.named(MEASURES[method])

    def named(self, names: Sequence[str]) -> list[Metric]:
        """Metrics that share what they ask the models.

        Raises:
            UserError: there is no metric of a name.
        """
        seen = Regions(self.clip, size=self.clip.model.config.vision_config.image_size)
        known = Regions(self.dino, size=self.dino.model.config.image_size)
        finder = EntityFinder(self.detector, threshold=self.present)
        reader = self.reader
        every: list[Metric] = [
            RegionIdentity(known),
            RegionLikeness("dino", known),
            RegionLikeness("clip_i", seen),
            EntityRecall(finder, name="found"),
            BackgroundChange("mean"),
            FaceLikeness(reader, "reference"),
            FaceLikeness(reader, "truth"),
            FaceCopyPaste(reader),
            FaceFound(reader),
            FoundLikeness(finder, known),
            PictureText(self.clip),
            EntityInMask(finder),
            EntityRecall(finder),
            LocationError(finder),
            BoxIoU(finder),
            MaskIoU(finder, GrabCut()),
            RegionText(self.clip, seen),
            AttributeAccuracy(AttributeReader(self.clip, seen, {"colour": list(world.COLOURS)})),
            SeamVisibility(),
        ]
        by_name = {metric.scale.name: metric for metric in every}
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise UserError(
                f"The metric {unknown[0]!r} was asked for.",
                "There is no such metric.",
                f"Use one of: {', '.join(sorted(by_name))}.",
            )
        return [by_name[name] for name in names]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Requests, and both ways' pictures [request][seed] with what metrics say of them.

    Scores run through the pictures request by request, seeds fastest.
    """

    requests: list[Request]
    pictures: Mapping[str, list[list[Image]]]
    scores: Mapping[str, Mapping[str, Scores]]

    def values(self, way: str, metric: str) -> np.ndarray:
        """Scores [requests, 1, seeds], failures worth the worst: as `compare` takes them."""
        return self.scores[way][metric].values.reshape(len(self.requests), 1, -1)

    def measured(self) -> dict[str, Measured]:
        """All metrics, for the gate."""
        first, second = (self.scores[way] for way in WAYS)
        return {
            name: measured(
                scores.values, second[name].values, seeds=len(self.pictures[WAYS[0]][0]),
                higher_is_better=scores.scale.higher_is_better,
            )
            for name, scores in first.items()
        }  # fmt: skip


def trial(
    method: Method,
    backbone: Any,
    weights: Mapping[str, Tensor],
    requests: Sequence[Request],
    metrics: Sequence[Metric],
    *,
    seeds: int,
    seed: int,
) -> Trial:
    """Paint all requests with every seed, with the adapter and with one that has learned nothing.

    The latter has the weights that a training with this seed starts from.
    """

    before = method.untrained()

    def begin() -> None:
        torch.manual_seed(seed)
        before.attach(backbone)

    asked = [
        replace(request, seed=int(rng_for("trained", seed, n, r).integers(2**31)))
        for n, request in enumerate(requests)
        for r in range(seeds)
    ]
    wanted = [entities(request) for request in requests]
    pictures, scores = {}, {}
    ways = ((method, lambda: method.load(backbone, weights)), (before, begin))
    for way, (own, put) in zip(WAYS, ways, strict=True):
        painted = _painted(own, backbone, asked, put)
        cases = [
            Case(
                image=picture, entities=wanted[n // seeds],
                source=request.image if request.background == "keep" else None,
                text=request.prompt,
            )
            for n, (picture, request) in enumerate(zip(painted, asked, strict=True))
        ]  # fmt: skip
        scores[way] = {metric.scale.name: metric(cases) for metric in metrics}
        pictures[way] = [painted[k : k + seeds] for k in range(0, len(painted), seeds)]
    return Trial(requests=list(requests), pictures=pictures, scores=scores)


def _painted(
    method: Method, backbone: Any, requests: Sequence[Request], put: Callable[[], None]
) -> list[Image]:
    put()
    try:
        return method.paint(backbone, requests)
    finally:
        method.detach(backbone)


def entities(request: Request) -> tuple[Entity, ...]:
    """What a request asks for, as metrics take it; the prompt speaks of a place that is alone."""
    alone = request.prompt if len(request.placements) == 1 else ""
    return tuple(_entity(placement, alone) for placement in request.placements)


def _entity(placement: Placement, alone: str) -> Entity:
    references: tuple[Photo, ...] = ()
    if placement.reference is not None:
        references = (Photo(image=placement.reference, box_xyxy01=_known(placement)),)
    words = placement.prompt or alone
    if references and placement.prompt:  # with a reference it is the word for what it is
        words = world.article(placement.prompt)
    return Entity(
        box_xyxy01=placement.box_xyxy01,
        mask_HW=None if placement.mask is None else placement.mask > 127,
        text=words,
        references=references,
    )


def _known(placement: Placement) -> tuple[float, float, float, float]:
    """Where the thing is in its reference: around its landmarks, or everywhere."""
    if placement.reference_landmarks_xy01 is None:
        return (0.0, 0.0, 1.0, 1.0)
    points = np.array(placement.reference_landmarks_xy01)
    (x0, y0), (x1, y1) = points.min(0), points.max(0)
    return float(x0), float(y0), float(x1), float(y1)


def rows(done: Trial) -> list[dict[str, object]]:
    """Every score, as a row for a table: way, request, seed, and a value for each metric."""
    return [
        {"way": way, "request": n, "seed": r}
        | {name: round(float(done.values(way, name)[n, 0, r]), 6) for name in done.scores[way]}
        for way in WAYS
        for n in range(len(done.requests))
        for r in range(len(done.pictures[way][n]))
    ]


def summarize(done: Trial, *, seed: int) -> dict[str, Finding]:
    """Trained against untrained by metric, with a bootstrap over requests, then seeds."""
    first, second = WAYS
    return {
        name: Finding(
            scale=scores.scale,
            comparison=compare(done.values(first, name), done.values(second, name), seed=seed),
            first_failed=scores.failures,
            second_failed=done.scores[second][name].failures,
        )
        for name, scores in done.scores[first].items()
    }
