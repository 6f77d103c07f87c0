"""Two ways of painting the same things, compared by each metric: the figures, and how they show."""

from collections.abc import Mapping
from dataclasses import dataclass

from insitu.evaluation.comparison import Comparison
from insitu.evaluation.gallery.page import Group, Line, Section, Unit
from insitu.evaluation.metrics import Scale


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The first way against the second by one metric, and how many pictures of each failed."""

    scale: Scale
    comparison: Comparison
    first_failed: int
    second_failed: int


def figures(found: Finding, ways: tuple[str, str]) -> dict[str, object]:
    """For a file of metrics; `failed` = pictures that could not be measured, at the worst value."""
    first, second = ways
    return {
        first: found.comparison.first.rounded() | {"failed": found.first_failed},
        second: found.comparison.second.rounded() | {"failed": found.second_failed},
        "difference": found.comparison.difference.rounded(),
    }


def section(
    summary: Mapping[str, Finding], ways: tuple[str, str], names: Mapping[str, str], text: str
) -> Section:
    """A page's section of figures; `names` = what each metric asks, in words."""
    units = []
    for name, found in summary.items():
        c, failed = found.comparison, (found.first_failed, found.second_failed)
        shown = ((ways[0], c.first), (ways[1], c.second), ("difference", c.difference))
        lines = [Line(text=way, value=str(figure)) for way, figure in shown]
        for way, count in zip(ways, failed, strict=True):
            if count:
                lines.append(Line(text=f"failed, {way}", value=f"{count} of {c.first.n}"))
        better = "higher" if found.scale.higher_is_better else "lower"
        units.append(
            Unit(tiles=(), text=names[name], note=f"{better} is better", lines=tuple(lines))
        )
    return Section(
        key="figures", title="In figures", text=text,
        groups=(Group(units=tuple(units), tile_px=300),),
    )  # fmt: skip
