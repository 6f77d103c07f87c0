"""The registered rule: what a comparison shows, and when a claim holds, is contradicted or open.

Scores come from trainings (replicates, each of its own seed) that all paint the same requests.
Both are drawn at random from many, so the mean difference varies with both (two crossed random
effects), and its variance is estimated as in two-way clustering (Cameron, Gelbach and Miller 2011,
section 2.2). Where requests are a replicate's own, as a subject's are, replicates alone are drawn.
Its degrees of freedom are Satterthwaite's (1946): near those of the trainings where these differ
much, near those of the requests where they agree.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

Verdict = Literal["holds", "contradicted", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A mean difference with its uncertainty.

    Attributes:
        first, second: the means that are compared.
        value: first minus second; of ratios the difference of logarithms.
        error: its standard error.
        freedom: degrees of freedom of `error`, at least 1.
        replicates, requests: how many there were of each.
    """

    first: float
    second: float
    value: float
    error: float
    freedom: float
    replicates: int
    requests: int

    def interval(self, level: float) -> tuple[float, float]:
        """The two-sided interval that misses with probability `level`."""
        half = float(stats.t.ppf(1 - level / 2, self.freedom)) * self.error
        return self.value - half, self.value + half

    def above(self, bound: float) -> float:
        """One-sided p of no more than `bound`."""
        return self._beyond(self.value - bound)

    def below(self, bound: float) -> float:
        """One-sided p of no less than `bound`."""
        return self._beyond(bound - self.value)

    def _beyond(self, distance: float) -> float:
        if self.error == 0:
            return 0.0 if distance > 0 else 1.0
        return float(stats.t.sf(distance / self.error, self.freedom))


def difference(
    first_RK: NDArray[np.float64], second_RK: NDArray[np.float64], *, nested: bool = False
) -> Difference:
    """First minus second, by replicate R and request K.

    Args:
        nested: each replicate has requests of its own.

    Raises:
        ValueError: shapes differ, a score is no number, or there is but one of what is drawn.
    """
    if first_RK.shape != second_RK.shape or first_RK.ndim != 2:
        raise ValueError(f"scores of {first_RK.shape} and {second_RK.shape} do not pair")
    d = first_RK - second_RK
    if not np.isfinite(d).all():
        raise ValueError("a score is no number: a failed case has its metric's worst value")
    replicates, requests = d.shape
    if max(replicates, 1 if nested else requests) < 2:
        raise ValueError(f"{replicates} x {requests} scores show no spread")
    of_replicates = _error(d.mean(1))
    parts = [(of_replicates, replicates - 1)]
    variance = of_replicates
    if not nested:
        of_requests = _error(d.mean(0))
        parts.append((of_requests, requests - 1))
        # Both count the spread of single scores, which the last term takes out once.
        both = of_replicates + of_requests - (_error(d.ravel()) if replicates > 1 else 0.0)
        variance = max(both, of_replicates, of_requests)
    spread = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = variance**2 / spread if spread else float(sum(f for _, f in parts))
    return Difference(
        first=float(first_RK.mean()), second=float(second_RK.mean()), value=float(d.mean()),
        error=math.sqrt(variance), freedom=max(1.0, freedom), replicates=replicates,
        requests=requests,
    )  # fmt: skip


def _error(means: NDArray[np.float64]) -> float:
    """The squared standard error of the mean of independent values; 0 of a single one."""
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What a claim says of one difference, turned so that more is as claimed.

    Attributes:
        found: the difference.
        least: the smallest that counts, 0 or more; of a margin, minus that.
        null: what it has to be above.
        hoped: the true difference for which power is told.
    """

    found: Difference
    least: float
    null: float
    hoped: float

    @classmethod
    def effect(cls, found: Difference, least: float) -> "Comparison":
        """At least so much more (less, where `least` is below 0)."""
        turned = found if least > 0 else _turned(found)
        return cls(found=turned, least=abs(least), null=0.0, hoped=abs(least))

    @classmethod
    def margin(cls, found: Difference, margin: float) -> "Comparison":
        """No more than `margin` less: power is that of equals."""
        return cls(found=found, least=-margin, null=-margin, hoped=0.0)

    @property
    def holds(self) -> float:
        """One-sided p of its not being so."""
        return self.found.above(self.null)

    @property
    def fails(self) -> float:
        """One-sided p of its being so by what counts."""
        return self.found.below(self.least)

    def power(self, level: float, times: float = 1.0) -> float:
        """Chance that a study finds `hoped` with a one-sided `level`, 0..1.

        Args:
            times: as many trainings and requests as this one.
        """
        if self.found.error == 0:
            return 1.0
        freedom = self.found.freedom * times
        shift = (self.hoped - self.null) * math.sqrt(times) / self.found.error
        return float(stats.t.sf(stats.t.ppf(1 - level, freedom) - shift, freedom))

    def factor(self, level: float, power: float) -> float:
        """How many times as many trainings and requests would find `hoped` with that power."""
        if self.found.error == 0:
            return 0.0
        return float(
            optimize.brentq(lambda times: self.power(level, times) - power, 1e-6, 1e6, rtol=1e-4)
        )


def _turned(found: Difference) -> Difference:
    values = {**vars(found), "value": -found.value}
    return Difference(**values)


def chances(comparisons: Sequence[Comparison]) -> tuple[float, float]:
    """p of a claim's not holding, and of its holding, where all its comparisons have to hold.

    The greatest p of them (intersection-union test, Berger 1982), and the least times their number.
    """
    for_it = max(comparison.holds for comparison in comparisons)
    against = min(1.0, len(comparisons) * min(comparison.fails for comparison in comparisons))
    return for_it, against


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p by name, adjusted for their number (Holm 1979)."""
    adjusted, greatest = {}, 0.0
    for place, (name, p) in enumerate(sorted(values.items(), key=lambda item: item[1])):
        greatest = max(greatest, min(1.0, (len(values) - place) * p))
        adjusted[name] = greatest
    return adjusted


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A claim's verdict and the p behind it, two-sided and adjusted within the paper."""

    verdict: Verdict
    p: float


def raw(claims: Mapping[str, Sequence[Comparison]]) -> dict[str, float]:
    """Each claim's two-sided p, not adjusted."""
    return {name: min(1.0, 2 * min(chances(own))) for name, own in claims.items()}


def decide(
    claims: Mapping[str, Sequence[Comparison]],
    *,
    level: float,
    others: Mapping[str, float] | None = None,
) -> dict[str, Decision]:
    """The verdicts on claims of one paper.

    A claim is contradicted where all that counts is excluded with certainty, be the difference the
    other way round or too small; it holds where the adjusted p for holding is at most `level` and
    each difference is at least what counts; else it is undecided.

    Args:
        others: the paper's other registered claims with their p as `raw` gives it.
    """
    adjusted = holm({**(others or {}), **raw(claims)})
    decisions = {}
    for name, comparisons in claims.items():
        for_it, against = chances(comparisons)
        verdict: Verdict = "undecided"
        # Where both are excluded it is there and too small; Bonferroni's p, for Holm's is of one.
        small = 2 * len(adjusted) * against <= level
        if (adjusted[name] <= level and against < for_it) or small:
            verdict = "contradicted"
        elif adjusted[name] <= level and all(c.found.value >= c.least for c in comparisons):
            verdict = "holds"
        decisions[name] = Decision(verdict=verdict, p=adjusted[name])
    return decisions
