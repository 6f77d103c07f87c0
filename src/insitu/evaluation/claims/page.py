"""The report on the claims: one HTML file with its pictures and charts in it, which opens from
disk and asks for nothing from outside of it.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image as Pil

from insitu.errors import UserError
from insitu.evaluation.claims import page_charts, page_text
from insitu.evaluation.claims.page_charts import Axis, Mark, Panel
from insitu.evaluation.claims.registered import Arm, Claim, Curve, Registered, Replication
from insitu.evaluation.claims.rule import Verdict
from insitu.files import replace_text
from insitu.requests import Box, Image

Plain = Mapping[str, Any]

FILE = Path("reports/index.html")
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
FIRST = 6  # requests of a grid that are seen without a click
SHORT = 10  # characters of a digest that are shown


@dataclass(frozen=True, kw_only=True)
class Output:
    """What an arm painted, uint8 [H, W, 3], and its score; None = it has none."""

    label: str
    image: NDArray[np.uint8]
    score: float | None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One request and what was painted for it.

    Attributes:
        words: what goes into each box.
        photo: uint8 [H, W, 3].
        keep: what is outside of the boxes stays; otherwise the photo gives only its proportions.
        boxes: in shares of the photo's sides.
        references: of the boxes in their order, where each has one; uint8 [h, w, 3].
    """

    prompt: str
    words: tuple[str, ...]
    photo: Image
    keep: bool
    boxes: tuple[Box, ...]
    references: tuple[Image, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Requests of a method with what arms painted for them, the worst first by `metric`."""

    method: str
    title: str
    metric: str
    shown: tuple[Shown, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the overview: one comparison of a claim."""

    claim: Plain
    test: Plain
    first: bool
    mark: Mark


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A registered curve, a panel for each of its metrics."""

    curve: Curve
    on: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """A line of the arms' table.

    Attributes:
        number: its place, which is its address within the page.
        learned: what the results say of its trainings; None where there are none of its own.
    """

    number: int
    name: str
    arm: Arm
    learned: Plain | None


@dataclass(frozen=True, kw_only=True)
class Paper:
    """All of the page that is about one paper."""

    method: str
    own: Replication
    claims: tuple[Plain, ...]
    rows: tuple[Row, ...]
    charts: tuple[Chart, ...]
    grids: tuple[Grid, ...]
    arms: tuple[Adapters, ...]
    tables: tuple[Plain, ...]

    @property
    def counts(self) -> dict[str, int]:
        return _counts(self.claims)

    @property
    def numbers(self) -> dict[str, int]:
        """By arm, its place in the arms' table."""
        return {line.name: line.number for line in self.arms}

    @property
    def registered(self) -> dict[str, Claim]:
        """The claims by their ids."""
        return {claim.id: claim for claim in self.own.claims}


def write(
    results: Mapping[str, Any],
    registered: Registered,
    grids: Sequence[Grid],
    target: Path,
    runs: Plain | None = None,
) -> None:
    """Write the report, all at once.

    Args:
        results: as `pipelines.claims` writes them to `docs/claims.json`.
        registered: the file that they were made by.
        runs: addresses of pages that show the runs: `all`, and `arms` by method and arm.

    Raises:
        UserError: there are results or grids of what is not registered, or no results at all.
    """
    _require(results, registered, grids)
    axis = Axis.of([page_charts.span(t) for claim in results["claims"] for t in claim["tests"]])
    papers = [
        _paper(method, own, results, [g for g in grids if g.method == method], axis)
        for method, own in registered.methods.items()
        if any(claim["method"] == method for claim in results["claims"])
    ]
    environment = Environment(
        loader=PackageLoader("insitu.evaluation.claims"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= page_text.FILTERS
    text = environment.get_template("report.html.jinja").render(
        results=results, papers=papers, axis=axis, counts=_counts(results["claims"]),
        learning_s=sum(_seconds(results)), adapters=len(_seconds(results)), charts=page_charts,
        metrics=_metrics(results, grids), signs=page_text.SIGNS, deciding=page_text.deciding,
        address=_address, first=FIRST, short=SHORT,
        runs=runs or {"all": None, "arms": {}},
    )  # fmt: skip
    replace_text(target, text)


def _require(results: Plain, registered: Registered, grids: Sequence[Grid]) -> None:
    if not results["claims"]:
        raise UserError(
            "A report on no claims was asked for.",
            "The results hold none.",
            "Check some claims first, or all of them: insitu claims.",
        )
    for claim in results["claims"]:
        asked = [(t.metric, t.of, t.over) for t in registered.claim(claim["id"]).tests]
        found = [(t["metric"], t["of"], t["over"]) for t in claim["tests"]]
        if asked != found:
            raise UserError(
                f"The results have {claim['id']} by {len(found)} comparisons: {found}.",
                f"Registered are: {asked}.",
                "Check the claims anew: the file has changed since.",
            )
    for curve in results["curves"]:
        titles = [own.title for own in registered.methods[curve["method"]].curves]
        if curve["title"] not in titles:
            raise UserError(
                f"The results have a curve {curve['title']!r} of {curve['method']}.",
                f"Registered are: {', '.join(titles) or 'none'}.",
                "Check the claims anew: the file has changed since.",
            )
    told = {claim["method"] for claim in results["claims"]}
    for grid in grids:
        if grid.method not in told:
            raise UserError(
                f"Pictures of {grid.method!r} were given for the report on the claims.",
                f"Its results are of: {', '.join(sorted(told))}.",
                "Leave them out, or check a claim of that method, too.",
            )


def _paper(
    method: str, own: Replication, results: Plain, grids: Sequence[Grid], axis: Axis
) -> Paper:
    claims = tuple(claim for claim in results["claims"] if claim["method"] == method)
    rows = tuple(
        Row(
            claim=claim, test=test, first=n == 0,
            mark=page_charts.mark(page_charts.span(test), axis),
        )
        for claim in claims
        for n, test in enumerate(claim["tests"])
    )  # fmt: skip
    learned = results["arms"].get(method, {})
    return Paper(
        method=method, own=own, claims=claims, rows=rows, grids=tuple(grids),
        charts=tuple(_charts(method, own, results["curves"])),
        arms=tuple(
            Adapters(number=n, name=name, arm=arm, learned=learned.get(name))
            for n, (name, arm) in enumerate(own.arms.items(), start=1)
        ),
        tables=tuple(t for t in results.get("benchmarks", ()) if t["method"] == method),
    )  # fmt: skip


def _charts(method: str, own: Replication, curves: Sequence[Plain]) -> Iterator[Chart]:
    known = {curve.title: curve for curve in own.curves}
    for found in curves:
        if found["method"] == method:
            yield Chart(
                curve=known[found["title"]], on=found["on"],
                panels=tuple(page_charts.panel(*line) for line in found["lines"].items()),
            )  # fmt: skip


def _counts(claims: Sequence[Plain]) -> dict[str, int]:
    said = [claim["verdict"] for claim in claims]
    return {verdict: said.count(verdict) for verdict in VERDICTS}


def _seconds(results: Plain) -> list[float]:
    """Of all the arms' trainings."""
    arms = [arm for own in results["arms"].values() for arm in own.values()]
    return [seconds for arm in arms for seconds in arm["seconds"]]


def _metrics(results: Plain, grids: Sequence[Grid]) -> dict[str, str]:
    """What the metrics on the page ask, where that is known."""
    used = {test["metric"] for claim in results["claims"] for test in claim["tests"]}
    used |= {metric for curve in results["curves"] for metric in curve["lines"]}
    used |= {grid.metric for grid in grids}
    used |= {m for t in results.get("benchmarks", ()) for m in t["rows"][0]["means"]}
    return {name: told for name, told in page_text.METRICS.items() if name in used}


def _address(image: Image) -> str:
    """A picture as a data URI."""
    stream = io.BytesIO()
    Pil.fromarray(image).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
