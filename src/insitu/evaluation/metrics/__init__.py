"""Metrics of placed pictures, all called alike.

A metric has a `scale` (its name, range, unit, which end is good) and is called with cases:

    scores = metric(cases)          # a value for each case; what failed is marked, with its reason
    summary = summarize(scores)     # the mean with its interval, and how much failed

A failed sample counts: in every mean it has the scale's worst value, and the number of failures
stands beside. Frechet distances compare sets, so they have no value for a case; see `frechet`.

`regions`: CLIP-I, DINO, CLIP-T, copy-paste. `attributes`: accuracy, leakage. `entities`: recall,
location error, IoU. `edges`: background change, seam. `faces`. `quality`: the aesthetic score.
"""

from insitu.evaluation.metrics.cases import Box, Case, Entity, Image, Mask, Photo
from insitu.evaluation.metrics.scores import (
    Failure,
    Metric,
    Parts,
    Scale,
    Scores,
    Summary,
    score,
    summarize,
)

__all__ = [
    "Box", "Case", "Entity", "Failure", "Image", "Mask", "Metric", "Parts", "Photo", "Scale",
    "Scores", "Summary", "score", "summarize",
]  # fmt: skip
