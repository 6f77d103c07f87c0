"""Values of cases on a scale, failures among them, and their means."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.evaluation.checkpoints import Figure, bootstrap
from insitu.evaluation.comparison import nested_mean
from insitu.evaluation.metrics.cases import Case

ROUNDING = 1e-5
"""How far a value may leave its range, since float32 cosines do."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A metric's name, its range from `low` to `high`, which end is good, its unit in words."""

    name: str
    low: float
    high: float
    higher_is_better: bool
    unit: str

    @property
    def worst(self) -> float:
        """What a failed sample is worth."""
        return self.low if self.higher_is_better else self.high


@dataclass(frozen=True)
class Failure:
    """A measurement that could not be made, and why; not a score."""

    reason: str


Parts = tuple[float | Failure, ...]
"""The values of one case: one for the picture, or one for each of its entities."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a metric says of N cases.

    Raises:
        ValueError: a case has no part, or a value is not a number within the scale's range.
    """

    scale: Scale
    parts: tuple[Parts, ...]

    def __post_init__(self) -> None:
        low, high = self.scale.low - ROUNDING, self.scale.high + ROUNDING
        for parts in self.parts:
            values = [part for part in parts if not isinstance(part, Failure)]
            if not parts or not all(low <= value <= high for value in values):
                raise ValueError(f"{self.scale.name} of a case is {parts}")

    @property
    def values(self) -> NDArray[np.float64]:
        """[N]: each case's mean over its parts, a failed part worth the scale's worst value."""
        worst = self.scale.worst
        return np.array(
            [np.mean([worst if isinstance(p, Failure) else p for p in own]) for own in self.parts],
            np.float64,
        )

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why parts of each case failed, N times; "" where none did."""
        return tuple(
            "; ".join(dict.fromkeys(p.reason for p in own if isinstance(p, Failure)))
            for own in self.parts
        )

    @property
    def failed(self) -> NDArray[np.bool_]:
        """[N]: some part of the case failed."""
        return np.array([bool(reason) for reason in self.reasons], np.bool_)

    @property
    def failures(self) -> int:
        """How many parts failed, of `count`."""
        return sum(isinstance(part, Failure) for own in self.parts for part in own)

    @property
    def count(self) -> int:
        """How many parts there are."""
        return sum(len(own) for own in self.parts)


class Metric(Protocol):
    """Anything that gives cases values on a scale."""

    @property
    def scale(self) -> Scale: ...

    def __call__(self, cases: Sequence[Case]) -> Scores:
        """Measure each case.

        Raises:
            UserError: there is no case, or one lacks what the metric compares with.
        """
        ...


def score(
    scale: Scale,
    cases: Sequence[Case],
    measure: Callable[[list[Case]], Sequence[Parts]],
    *,
    each_entity: bool = False,
) -> Scores:
    """`measure` the cases that have a picture; the others fail, with all their entities."""
    if not cases:
        raise UserError(
            f"No case was given to {scale.name}.",
            "A mean over nothing is no figure.",
            "Give at least one case.",
        )
    painted = [case for case in cases if case.image is not None]
    found = iter(measure(painted) if painted else ())
    parts = tuple(
        next(found)
        if case.image is not None
        else (Failure(case.failure),) * (max(1, len(case.entities)) if each_entity else 1)
        for case in cases
    )
    assert next(found, None) is None  # one answer for each case
    return Scores(scale=scale, parts=parts)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A mean over cases with its 95% interval; `failed` of its `count` parts are in it as worst."""

    scale: Scale
    figure: Figure
    failed: int
    count: int

    @property
    def measured_share(self) -> float:
        """0..1, e.g. for faces the detection rate."""
        return 1 - self.failed / self.count


def summarize(
    scores: Scores, *, nested: tuple[int, int, int] | None = None, seed: int = 0
) -> Summary:
    """The mean with a bootstrap interval over cases.

    Args:
        nested: how many subjects, scenes of each and seeds of each the cases run through, seeds
            fastest; the bootstrap then draws in that order.

    Raises:
        ValueError: `nested` does not multiply to the number of cases.
    """
    values = scores.values
    if nested is None:
        figure = bootstrap(values, seed=seed)
    elif math.prod(nested) != len(values):
        raise ValueError(f"{len(values)} cases are not {' x '.join(map(str, nested))}")
    else:
        figure = nested_mean(values.reshape(nested), seed=seed)
    return Summary(scale=scores.scale, figure=figure, failed=scores.failures, count=scores.count)
