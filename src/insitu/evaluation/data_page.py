"""The page about one data set: the funnel, figures, and samples of what was kept and refused."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from insitu.evaluation.charts import funnel
from insitu.evaluation.checkpoints import Figure
from insitu.evaluation.gallery.page import Group, Line, Page, Section, Tile, Unit
from insitu.evaluation.gallery.writing import write
from insitu.files import replacing
from insitu.randomness import rng_for
from insitu.records import Manifest, Record, Rejected

R = TypeVar("R", bound=Record)
Image = NDArray[np.uint8]
FUNNEL = "funnel.png"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with a sentence about it; shown as wide as it is."""

    image: Image
    text: str
    name: str


def shown(figure: Figure | None) -> str:
    """A figure with its interval, for a line of a page."""
    if figure is None:
        return "no case"
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def lines(head: str, figures: Mapping[str, Figure]) -> dict[str, list[Line]]:
    """Figures under one heading, and no heading without a figure."""
    own = [Line(text=name, value=shown(figure)) for name, figure in figures.items()]
    return {head: own} if own else {}


def steps(begin: tuple[str, int], manifest: Manifest, filters: Sequence[str]) -> list[Any]:
    """The funnel of a data set: how many are left after each filter, in the filters' order.

    Args:
        begin: what there was at first, and how many.
        filters: in the order in which they are asked; those that refused nothing included.
    """
    name, left = begin
    found = [(name, left)]
    lost = dict(manifest.rejected_by_filter)
    failed = len(manifest.set_aside)
    if failed:
        left -= failed
        found.append(("not set aside", left))
    for filter in filters:
        left -= lost.pop(filter, 0)
        found.append((filter, left))
    if lost:
        raise ValueError(f"filters without a place in the funnel: {sorted(lost)}")
    return found


def sample(rows: Iterable[R], count: int, *, key: str) -> list[R]:
    """`count` of the rows, evenly and repeatably (reservoir sampling), in their order."""
    rng = rng_for("sample", key)
    chosen: list[tuple[int, R]] = []
    for index, row in enumerate(rows):
        if len(chosen) < count:
            chosen.append((index, row))
        elif (place := int(rng.integers(index + 1))) < count:
            chosen[place] = (index, row)
    return [row for _, row in sorted(chosen, key=lambda item: item[0])]


def sample_rejected(
    rows: Iterable[Rejected[R]], count: int, *, key: str
) -> dict[str, list[Rejected[R]]]:
    """`count` refused rows of each filter, by the filter's name."""
    rng = rng_for("sample", key)
    chosen: dict[str, list[Rejected[R]]] = {}
    seen: dict[str, int] = {}
    for row in rows:
        own = chosen.setdefault(row.filter, [])
        seen[row.filter] = seen.get(row.filter, 0) + 1
        if len(own) < count:
            own.append(row)
        elif (place := int(rng.integers(seen[row.filter]))) < count:
            own[place] = row
    return dict(sorted(chosen.items()))


def publish(
    folder: Path,
    *,
    title: str,
    text: str,
    funnel_steps: Sequence[tuple[str, int]],
    charts: Sequence[Chart] = (),
    lines: Mapping[str, Sequence[Line]] = {},
    kept: Sequence[R],
    refused: Mapping[str, Sequence[Rejected[R]]],
    show: Callable[[R], Unit],
    tile_px: int = 128,
) -> None:
    """Write `index.html` and the charts into `folder`, whole.

    Args:
        lines: figures by their heading.
        show: one row as pictures with what is known of them.
    """
    flow = funnel(funnel_steps)
    pictures = [Chart(image=flow, text="Rows that are left after each step.", name=FUNNEL), *charts]
    page = Page(
        title=title,
        text=text,
        banner=Group(
            units=tuple(Unit(tiles=(replace(show(row).tiles[0], label=""),)) for row in kept),
            banner=True,
        ),
        sections=(
            Section(
                key="funnel",
                title="What is kept",
                text="",
                groups=tuple(
                    Group(
                        units=(
                            Unit(tiles=(Tile(image=chart.image, alt=chart.text),), text=chart.text),
                        ),
                        tile_px=chart.image.shape[1] * 2 // 3,
                    )
                    for chart in pictures
                ),
            ),
            *(
                Section(
                    key="figures",
                    title="In figures",
                    text="With 95% intervals.",
                    groups=(
                        Group(
                            units=tuple(
                                Unit(tiles=(), text=head, lines=tuple(own))
                                for head, own in lines.items()
                            ),
                            tile_px=300,
                        ),
                    ),
                )
                for _ in range(bool(lines))
            ),
            Section(
                key="kept",
                title="Kept",
                text="Drawn at random.",
                groups=(Group(units=tuple(map(show, kept)), tile_px=tile_px),),
            ),
            Section(
                key="refused",
                title="Refused",
                text="Drawn at random, for each filter; nothing is thrown away.",
                groups=tuple(
                    Group(
                        title=name,
                        units=tuple(_with_reason(show(row.record), row.reason) for row in rows),
                        tile_px=tile_px,
                    )
                    for name, rows in refused.items()
                ),
            ),
        ),
    )
    with replacing(folder) as fresh:
        write(page, fresh)
        for chart in pictures:
            Pillow.fromarray(chart.image).save(fresh / chart.name)


def _with_reason(unit: Unit, reason: str) -> Unit:
    return Unit(tiles=unit.tiles, text=unit.text, note=reason, lines=unit.lines)
