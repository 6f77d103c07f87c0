"""Stage `boundid`: filters A, B and C, box growth, the masked picture; no model runs.

Run from the repository's root: `python -m pipelines.boundid`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from insitu.evaluation import data_page, filters
from insitu.evaluation.charts import trade
from insitu.evaluation.gallery.page import DrawnBox, Line, Tile, Unit
from insitu.files import replace_text
from insitu.params import Params
from insitu.records import Manifest, load_manifest, read, read_rejected
from insitu.records.engines import BoundId, Candidate, Detections
from insitu.synthesis import boundid
from pipelines import _engines, _step
from pipelines._paths import BOUNDID, BOUNDID_FIGURES, BOUNDID_PAGE, CANDIDATES, DETECTIONS

SHOWN = 12
"""Rows of each kind on the page."""


def make(params: Params, target: Path) -> Manifest:
    """Filter and publish the rows at `target`."""
    return _engines.make(
        params,
        target,
        BoundId,
        worker=_worker,
        rows=_joined,
        name=lambda row: str(row[0].id),
        shards=_engines.shards_of(DETECTIONS),
        settings=params.boundid.model_dump(),
        inputs=[CANDIDATES, DETECTIONS],
        finish=_engines.card(
            target,
            BoundId,
            title="BoundID",
            text="Two identities in one picture, each with a box and a reference picture"
            " (Inpaint-Anywhere).",
            filters=boundid.FILTERS,
            settings={"boundid": params.boundid.model_dump()},
            made_of={params.pairs.bank, params.candidates.generator},
        ),
    )


def main(params: Params, report: _step.Report) -> None:
    manifest = make(params, BOUNDID)
    # One that no detection could be made of is set aside there, and missing here.
    drawn = load_manifest(CANDIDATES)
    begin = [("candidates", drawn.rows)]
    looked_at = manifest.rows + manifest.rejected_rows + len(manifest.set_aside)
    if looked_at < drawn.rows:
        begin.append(("looked at", looked_at))
    steps = [*begin[:-1], *data_page.steps(begin[-1], manifest, boundid.FILTERS)]
    print(" -> ".join(f"{count:,} {name}" for name, count in steps))
    figures = _figures(params, manifest, steps)
    replace_text(BOUNDID_FIGURES, json.dumps(figures, indent=2) + "\n")
    report(
        _engines.counts(manifest)
        | {"page": str(BOUNDID_PAGE / "index.html"), "funnel": str(BOUNDID_PAGE / "funnel.png")}
    )


def _figures(params: Params, manifest: Manifest, steps: list[Any]) -> dict[str, Any]:
    """Write the page; the figures that it shows, as plain JSON."""
    own = params.boundid
    known = filters.judged(pair for k in range(len(manifest.shards)) for pair in _joined(k))
    at = dict(zip(boundid.FILTERS, (own.detection, own.identity, own.quality), strict=True))
    result: dict[str, Any] = {"funnel": dict(steps)}
    charts, lines = [], {}
    if known:
        cases = filters.cases(known, detection=own.detection, hidden=own.hidden)
        advice = filters.suggested(cases)
        measured = {
            name: (case, filters.measure(case.half(False), at[name.partition(",")[0]]))
            for name, case in cases.items()
        }
        for name, (_, quality) in measured.items():
            lines[name] = _lines(quality, advice.get(name))
            result[name] = _plain(quality) | {"suggested": advice.get(name)}
            print(f"{name}: " + ", ".join(f"{x.text} {x.value}" for x in lines[name]))
        by_kind = filters.kinds(known, own.quality)
        lines["C quality, recall by kind of fault"] = [
            Line(text=kind, value=data_page.shown(figure)) for kind, figure in by_kind.items()
        ]
        charts.append(
            data_page.Chart(
                image=trade({name: measured[name] for name in boundid.FILTERS}),
                text="Each filter on the half of the cases that no threshold was chosen on; the dot"
                " is where it is set.",
                name="filters.png",
            )
        )
    data_page.publish(
        BOUNDID_PAGE,
        title="BoundID",
        text="Two identities in one picture, each with a box. Whole boxes are grown, dashed ones"
        " as they were found; the references stand beside the picture, and what a model gets.",
        funnel_steps=steps,
        charts=charts,
        lines=lines,
        kept=data_page.sample(read(BOUNDID, BoundId), SHOWN, key="boundid"),
        refused=data_page.sample_rejected(read_rejected(BOUNDID, BoundId), SHOWN, key="boundid"),
        show=_show,
    )
    return result


def _show(row: BoundId) -> Unit:
    boxes = [
        DrawnBox(box_xyxy01=box.xyxy01, colour=k, dashed=dashed)
        for dashed, own in ((False, row.boxes), (True, row.found))
        for k, box in enumerate(own)
        if box is not None
    ]
    tiles = [Tile(image=row.image.array(), boxes=tuple(boxes), label="candidate")]
    tiles += [
        Tile(
            image=reference.image.array(),
            label=f"similarity {finding.similarity:.2f}",
            boxes=(DrawnBox(box_xyxy01=reference.box.xyxy01, colour=k),),
        )
        for k, (reference, finding) in enumerate(zip(row.references, row.findings, strict=True))
    ]
    tiles.append(Tile(image=row.masked.array(), label="masked"))
    return Unit(tiles=tuple(tiles), text=row.prompt)


def _lines(quality: filters.Quality, advice: float | None) -> list[Line]:
    figures = {
        "recall": quality.recall,
        "precision": quality.precision,
        "sound ones lost": quality.cost,
    }
    shown = [Line(text=name, value=data_page.shown(figure)) for name, figure in figures.items()]
    shown.append(Line(text="refused under", value=f"{quality.threshold:g}"))
    if advice is not None:
        shown.append(Line(text="the other half suggests", value=f"{advice:.3g}"))
    return shown


def _plain(quality: filters.Quality) -> dict[str, Any]:
    figures = {"recall": quality.recall, "precision": quality.precision, "cost": quality.cost}
    return {"threshold": quality.threshold} | {
        name: figure.rounded() for name, figure in figures.items() if figure
    }


def _worker(params: Params) -> boundid.Filters:
    own = params.boundid
    return boundid.Filters(
        asked=boundid.Thresholds(
            detection=own.detection, identity=own.identity, hidden=own.hidden, quality=own.quality
        ),
        growth=own.growth,
        grow=own.grow,
        fill=own.fill,
    )


def _joined(index: int) -> Iterator[tuple[Candidate, Detections]]:
    """A shard's candidates with what was found of them; one that was set aside is not there."""
    found = {row.id: row for row in read(DETECTIONS, Detections, shards=[index])}
    for candidate in read(CANDIDATES, Candidate, shards=[index]):
        if candidate.id in found:
            yield candidate, found[candidate.id]


if __name__ == "__main__":
    sys.exit(_step.run(main))
