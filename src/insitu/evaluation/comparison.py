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

    @property
    def better(self) -> bool:
        """The first is higher by more than chance explains."""
        return self.difference.low > 0


def compare(
    first_SKR: NDArray[np.float64], second_SKR: NDArray[np.float64], *, seed: int = 0
) -> Comparison:
    """Compare scores by subject, scene and seed; NaN = a picture that could not be scored.

    A failure is not a score, so it is worth the worst that either way got, for whichever way it
    failed.

    Raises:
        ValueError: shapes differ, or no case was scored.
    """
    if first_SKR.shape != second_SKR.shape or first_SKR.ndim != 3:
        raise ValueError(f"scores of {first_SKR.shape} and {second_SKR.shape} do not pair")
    both = np.stack([first_SKR, second_SKR])
    if np.isnan(both).all():
        raise ValueError("no case was scored")
    both = np.where(np.isnan(both), np.nanmin(both), both)
    paired = np.concatenate([both, both[:1] - both[1:]])
    resampled = _nested_means(paired, np.random.default_rng(seed))
    figures = [
        Figure(
            value=float(values.mean()),
            low=float(np.percentile(means, 2.5)),
            high=float(np.percentile(means, 97.5)),
            n=values.size,
        )
        for values, means in zip(paired, resampled, strict=True)
    ]
    return Comparison(first=figures[0], second=figures[1], difference=figures[2])


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
