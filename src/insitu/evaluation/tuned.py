"""Tuned adapters against the untuned base: same places, same seeds, the base told everything.

The base gets the subject's full description, the adapter its identifier: what words can carry is
the baseline, what only photos can carry is what tuning has to add.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.comparison import Comparison, compare
from insitu.evaluation.placement import METRICS, Place, Reference, Scorer
from insitu.methods import Request
from insitu.randomness import rng_for
from insitu.records.subjects import SubjectPhoto

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One subject in all places: pictures [scene][seed] of both ways, scores [K, R] by metric.

    `boxes_xyxy01` = where it was put, place by place.
    """

    subject: str
    class_word: str
    description: str
    reference: Image
    boxes_xyxy01: list[Box]
    tuned: list[list[Image]]
    untuned: list[list[Image]]
    tuned_scores: dict[str, NDArray[np.float64]]
    untuned_scores: dict[str, NDArray[np.float64]]


def trial(
    photos: Sequence[SubjectPhoto],
    places: Sequence[Place],
    *,
    seeds: int,
    seed: int,
    identifier: str,
    paint_tuned: Callable[[Sequence[Request]], list[Image]],
    paint_untuned: Callable[[Sequence[Request]], list[Image]],
    scorer: Scorer,
) -> Trial:
    """Paint one subject into every place with every seed, both ways, and score the boxes."""
    first = photos[0]
    reference = Reference.of(photos)
    boxes = [place.box(reference.proportions) for place in places]
    found: dict[str, Any] = {}
    for way, paint, prompt in (
        ("tuned", paint_tuned, f"a {identifier} {first.class_word}"),
        ("untuned", paint_untuned, first.description),
    ):
        requests = [
            Request(
                image=place.image, box_xyxy01=box, prompt=prompt,
                seed=int(rng_for("placement", seed, first.subject, k, r).integers(2**31)),
            )
            for k, (place, box) in enumerate(zip(places, boxes, strict=True))
            for r in range(seeds)
        ]  # fmt: skip
        pictures = paint(requests)
        scores = scorer.score(pictures, [request.box_xyxy01 for request in requests], reference)
        found[way] = [pictures[k * seeds : (k + 1) * seeds] for k in range(len(places))]
        found[f"{way}_scores"] = {
            name: values.reshape(len(places), seeds) for name, values in scores.items()
        }
    return Trial(
        subject=first.subject,
        class_word=first.class_word,
        description=first.description,
        reference=reference.images[0],
        boxes_xyxy01=boxes,
        **found,
    )


def summarize(trials: Sequence[Trial], *, seed: int) -> dict[str, Comparison]:
    """Tuned against untuned over all trials, by metric."""
    return {
        name: compare(
            np.stack([trial.tuned_scores[name] for trial in trials]),
            np.stack([trial.untuned_scores[name] for trial in trials]),
            seed=seed,
        )
        for name in METRICS
    }
