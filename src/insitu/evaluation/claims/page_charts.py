"""Where the marks of the report's charts go; the template draws them.

The overview has one axis for all differences: 0 = what a claim has to be above, 1 = the smallest
difference that counts. Curves are small line charts, a panel for each metric.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

Plain = Mapping[str, Any]

LEAST, MOST = -4, 6
"""The axis ends there at the latest; what lies beyond is clipped and has an arrow."""
WIDTH, HEIGHT = 340, 220
LEFT, RIGHT, TOP, BOTTOM = 52, 326, 12, 176
"""A panel and the rectangle in it that curves are drawn in, in pixels."""
STUB = 3  # per cent of the axis: what is seen of an interval that is wholly beyond it
LOGARITHMIC = 8  # times that the greatest x is the smallest, from which on its axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class Span:
    """A difference and its interval, in units in which 0 has to be exceeded and 1 counts."""

    at: float
    low: float
    high: float


def span(test: Plain) -> Span:
    """A comparison's difference on the overview's axis: more is always as claimed.

    A difference is divided by the smallest that counts, sign included. Of a margin 0 is the whole
    margin lost and 1 is no loss.
    """
    values = (test["difference"], test["low"], test["high"])
    if test["margin"] is not None:
        at, low, high = ((value + test["margin"]) / test["margin"] for value in values)
    else:
        at, low, high = (value / test["effect"] for value in values)
    return Span(at=at, low=min(low, high), high=max(low, high))


@dataclass(frozen=True, kw_only=True)
class Axis:
    """From `low` to `high`; a place on it is a percentage of its length."""

    low: int
    high: int

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Self:
        """One that holds them as far as it may, and -1 to 2 in any case."""
        low = min([-1.0, *(s.low for s in spans)])
        high = max([2.0, *(s.high for s in spans)])
        return cls(low=max(LEAST, math.floor(low)), high=min(MOST, math.ceil(high)))

    def share(self, value: float) -> float:
        """0..100; what lies beyond an end is at that end."""
        return 100 * min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    @property
    def ticks(self) -> list[int]:
        """Whole numbers with 0 and 1 among them."""
        return list(range(self.low, self.high + 1))


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A span on an axis, in per cent of its length.

    Attributes:
        at: None = beyond an end of the axis.
        before, beyond: the interval goes on past that end.
    """

    at: float | None
    low: float
    high: float
    before: bool
    beyond: bool


def mark(own: Span, axis: Axis) -> Mark:
    """Where a span is drawn."""
    inside = axis.low <= own.at <= axis.high
    return Mark(
        at=axis.share(own.at) if inside else None,
        low=min(axis.share(own.low), 100.0 - STUB), high=max(axis.share(own.high), float(STUB)),
        before=own.low < axis.low, beyond=own.high > axis.high,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Point:
    """A mean and its interval in a panel's pixels, and the values themselves."""

    x: float
    y: float
    low: float
    high: float
    value: Plain


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One metric of a curve.

    Attributes:
        x_ticks, y_ticks: pixels and values; of y with equally many digits.
        logarithmic: x is.
    """

    metric: str
    points: tuple[Point, ...]
    x_ticks: tuple[tuple[float, float], ...]
    y_ticks: tuple[tuple[float, str], ...]
    logarithmic: bool

    @property
    def line(self) -> str:
        """The means, as an SVG's points."""
        return _told((p.x, p.y) for p in self.points)

    @property
    def band(self) -> str:
        """The outline of the intervals, as an SVG's points."""
        upper = [(p.x, p.high) for p in self.points]
        return _told([*upper, *((p.x, p.low) for p in reversed(self.points))])


def panel(metric: str, values: Sequence[Plain]) -> Panel:
    """Lay out one metric's means over x, each with `x`, `mean`, `low` and `high`."""
    xs = [value["x"] for value in values]
    logarithmic = min(xs) > 0 and max(xs) / min(xs) >= LOGARITHMIC
    along = [math.log(x) if logarithmic else x for x in xs]
    steps = _ticks(min(v["low"] for v in values), max(v["high"] for v in values))
    digits = max(len(f"{step:g}".partition(".")[2]) for step in steps)

    def down(value: float) -> float:
        return round(_between(value, steps[0], steps[-1], BOTTOM, TOP), 1)

    inset = 10 if len(xs) > 1 else 0
    across = [
        round(_between(a, min(along), max(along), LEFT + inset, RIGHT - inset), 1) for a in along
    ]
    points = tuple(
        Point(x=x, y=down(v["mean"]), low=down(v["low"]), high=down(v["high"]), value=v)
        for x, v in zip(across, values, strict=True)
    )
    return Panel(
        metric=metric, points=points, x_ticks=tuple(zip(across, xs, strict=True)),
        y_ticks=tuple((down(step), f"{step:.{digits}f}") for step in steps),
        logarithmic=logarithmic,
    )  # fmt: skip


def _between(value: float, low: float, high: float, start: float, end: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return start + share * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, of which the first is at most `low` and the last at least `high`."""
    room = max(high - low, abs(high) * 1e-3, 1e-6)
    power = 10.0 ** math.floor(math.log10(room / 4))
    step = next(s * power for s in (1, 2, 5, 10) if room / (s * power) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(n * step, 10) for n in range(first, max(last, first + 1) + 1)]


def _told(points: Any) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
