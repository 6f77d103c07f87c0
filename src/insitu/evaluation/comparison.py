"""Two ways of doing the same cases, compared: means with intervals that respect how cases nest.

Pictures of one subject are alike, and so are those of one scene; counting them as independent
would make intervals too narrow. So the bootstrap draws subjects first, then each one's scenes, then
their seeds (a nested bootstrap; Davison & Hinkley 1997, section 3.8).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.checkpoints import Figure

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric of both ways, and their difference case by case (first minus second)."""

    first: Figure
    second: Figure
    difference: Figure


def compare(
    first_SKR: NDArray[np.float64], second_SKR: NDArray[np.float64], *, seed: int = 0
) -> Comparison:
    """Compare scores by subject, scene and seed.

    Raises:
        ValueError: shapes differ, there is no case, or a score is no number: a failed case is worth
            its metric's worst value (`Scores.values`).
    """
    if first_SKR.shape != second_SKR.shape:
        raise ValueError(f"scores of {first_SKR.shape} and {second_SKR.shape} do not pair")
    both = np.stack([first_SKR, second_SKR])
    figures = _means(np.concatenate([both, both[:1] - both[1:]]), seed)
    return Comparison(first=figures[0], second=figures[1], difference=figures[2])


def nested_mean(values_SKR: NDArray[np.float64], *, seed: int = 0) -> Figure:
    """The mean over subjects, scenes and seeds, with the nested bootstrap's 95% interval.

    Raises:
        ValueError: the shape is another, there is no case, or a value is no number.
    """
    return _means(values_SKR[None], seed)[0]


def _means(values_MSKR: NDArray[np.float64], seed: int) -> list[Figure]:
    """The mean of every measure M, all resampled alike."""
    if values_MSKR.ndim != 4 or not values_MSKR.size or not np.isfinite(values_MSKR).all():
        raise ValueError(f"no finite scores by subject, scene and seed: {values_MSKR.shape[1:]}")
    resampled = _nested_means(values_MSKR, np.random.default_rng(seed))
    return [
        Figure(
            value=float(values.mean()),
            low=float(np.percentile(means, 2.5)),
            high=float(np.percentile(means, 97.5)),
            n=values.size,
        )
        for values, means in zip(values_MSKR, resampled, strict=True)
    ]


def _nested_means(
    values_MSKR: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Means [M, RESAMPLES], every measure M resampled alike."""
    _, subjects, scenes, seeds = values_MSKR.shape
    s = rng.integers(0, subjects, (RESAMPLES, subjects))[:, :, None, None]
    k = rng.integers(0, scenes, (RESAMPLES, subjects, scenes))[:, :, :, None]
    r = rng.integers(0, seeds, (RESAMPLES, subjects, scenes, seeds))
    means: NDArray[np.float64] = values_MSKR[:, s, k, r].mean((2, 3, 4))
    return means
