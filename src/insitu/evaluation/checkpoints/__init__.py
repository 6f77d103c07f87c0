"""Held-out figures of single checkpoints, each with its 95% interval.

Every module here is one model class and has `figures(path, *, count, seed) -> dict[str, Figure]`,
measured on world samples whose random keys no training uses. Cards, tests and the report call it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z95 = 1.959964  # standard normal quantile of a two-sided 95% interval
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured value with its 95% interval [low, high] and the number of cases behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def rounded(self) -> dict[str, float | int]:
        """As plain JSON, four decimals."""
        return {k: round(v, 4) if k != "n" else v for k, v in asdict(self).items()}


def proportion(hits: Iterable[bool]) -> Figure:
    """Share of true cases with its Wilson score interval (E. B. Wilson, 1927).

    Raises:
        ValueError: there is no case; a failed measurement is not a score.
    """
    outcomes = np.fromiter(hits, bool)
    n = _count(outcomes)
    p = float(outcomes.mean())
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n * n))
    # At shares of 0 and 1 the bound is the share itself, but for rounding.
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Figure(value=p, low=min(p, low), high=max(p, high), n=n)


def bootstrap(
    cases: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], float] = lambda c: float(c.mean()),
    *,
    seed: int = 0,
) -> Figure:
    """A statistic of `cases` [N, ...] with its percentile bootstrap interval over the cases."""
    values = np.asarray(cases, np.float64)
    n = _count(values)
    rng = np.random.default_rng(seed)
    resampled = [statistic(values[rng.integers(0, n, n)]) for _ in range(RESAMPLES)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Figure(value=statistic(values), low=float(low), high=float(high), n=n)


def _count(cases: NDArray[np.generic]) -> int:
    if len(cases) == 0:
        raise ValueError("no cases to measure")
    return len(cases)
