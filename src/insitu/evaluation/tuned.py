"""Tuned adapters against the untuned base: same places, same seeds, the base told everything.

The base gets the subject's full description, the adapter its identifier (with `tune.described`, the
same attributes beside it): what words can carry is the baseline, what only photos can carry is what
tuning has to add.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.comparison import compare
from insitu.evaluation.findings import Finding
from insitu.evaluation.measurement import Measured, measured
from insitu.evaluation.metrics import Case, Entity, Metric, Scores
from insitu.evaluation.metrics.edges import BackgroundChange, SeamVisibility
from insitu.evaluation.metrics.entities import EntityFinder, EntityRecall, LocationError
from insitu.evaluation.metrics.regions import RegionLikeness, Regions, RegionText
from insitu.evaluation.placement import Place, Reference
from insitu.methods import Placement, Request
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import IdentityEncoder
from insitu.randomness import rng_for
from insitu.records.subjects import SubjectPhoto

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]


def make_metrics(
    *, clip: ClipScorer, dino: IdentityEncoder, detector: ZeroShotDetector, threshold: float
) -> list[Metric]:
    """Likeness and text by the box's crop; whether and where the class is found; the rest's peace.

    `threshold` = lowest detector score at which a thing counts as found, 0..1.
    """
    seen = Regions(clip, size=clip.model.config.vision_config.image_size)
    known = Regions(dino, size=dino.model.config.image_size)
    finder = EntityFinder(detector, threshold=threshold)
    return [
        RegionLikeness("dino", known),
        RegionLikeness("clip_i", seen),
        RegionText(clip, seen),
        EntityRecall(finder, name="found"),
        LocationError(finder),
        BackgroundChange("mean"),
        BackgroundChange("largest"),
        SeamVisibility(),
    ]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One subject in all places: pictures [scene][seed] of both ways, and what metrics say of them.

    `boxes_xyxy01` = where it was put, place by place. Scores, by metric, run through the pictures
    scene by scene, seeds fastest.
    """

    subject: str
    class_word: str
    description: str
    reference: Image
    boxes_xyxy01: list[Box]
    tuned: list[list[Image]]
    untuned: list[list[Image]]
    tuned_scores: Mapping[str, Scores]
    untuned_scores: Mapping[str, Scores]

    def values(self, scores: Scores) -> NDArray[np.float64]:
        """One of its scores as [K, R], failures worth the worst."""
        return scores.values.reshape(len(self.tuned), -1)

    def measured(self) -> dict[str, Measured]:
        """All metrics, for the gate."""
        return {
            name: measured(
                scores.values, self.untuned_scores[name].values, seeds=len(self.tuned[0]),
                higher_is_better=scores.scale.higher_is_better,
            )
            for name, scores in self.tuned_scores.items()
        }  # fmt: skip


def trial(
    photos: Sequence[SubjectPhoto],
    places: Sequence[Place],
    *,
    seeds: int,
    seed: int,
    identifier: str,
    paint_tuned: Callable[[Sequence[Request]], list[Image]],
    paint_untuned: Callable[[Sequence[Request]], list[Image]],
    metrics: Sequence[Metric],
) -> Trial:
    """Paint one subject into every place with every seed, both ways, and measure it."""
    first = photos[0]
    reference = Reference.of(photos)
    boxes = [place.box(reference.proportions) for place in places]
    entities = [
        Entity(
            box_xyxy01=box,
            text=world.article(first.class_word),
            category=first.class_word,
            references=reference.photos,
        )
        for box in boxes
    ]
    found: dict[str, Any] = {}
    for way, paint, prompt in (
        ("tuned", paint_tuned, f"a {identifier} {first.class_word}"),
        ("untuned", paint_untuned, first.description),
    ):
        requests = [
            Request(
                image=place.image, placements=(Placement(box_xyxy01=box),), prompt=prompt,
                seed=int(rng_for("placement", seed, first.subject, k, r).integers(2**31)),
            )
            for k, (place, box) in enumerate(zip(places, boxes, strict=True))
            for r in range(seeds)
        ]  # fmt: skip
        pictures = paint(requests)
        cases = [
            Case(image=picture, entities=(entities[n // seeds],), source=request.image)
            for n, (picture, request) in enumerate(zip(pictures, requests, strict=True))
        ]
        found[way] = [pictures[k * seeds : (k + 1) * seeds] for k in range(len(places))]
        found[f"{way}_scores"] = {metric.scale.name: metric(cases) for metric in metrics}
    return Trial(
        subject=first.subject,
        class_word=first.class_word,
        description=first.description,
        reference=reference.photos[0].image,
        boxes_xyxy01=boxes,
        **found,
    )


def summarize(trials: Sequence[Trial], *, seed: int) -> dict[str, Finding]:
    """Tuned against untuned over all trials, by metric."""
    return {
        name: Finding(
            scale=scores.scale,
            comparison=compare(
                np.stack([trial.values(trial.tuned_scores[name]) for trial in trials]),
                np.stack([trial.values(trial.untuned_scores[name]) for trial in trials]),
                seed=seed,
            ),
            first_failed=sum(trial.tuned_scores[name].failures for trial in trials),
            second_failed=sum(trial.untuned_scores[name].failures for trial in trials),
        )
        for name, scores in trials[0].tuned_scores.items()
    }
