"""Stage `groups`: AnyPhoto's data, people with names at places.

Run from the repository's root: `python -m pipelines.groups`.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from insitu.evaluation import data_page
from insitu.evaluation.checkpoints import proportion
from insitu.evaluation.gallery.page import DrawnBox, DrawnPoint, Line, Tile, Unit
from insitu.files import replace_text
from insitu.params import Params
from insitu.records import read, read_rejected
from insitu.records.engines import BankFace, Group
from insitu.synthesis import groups
from insitu.synthesis.generators import pinned
from insitu.synthesis.people import Annotated
from pipelines import _engines, _models, _step
from pipelines._paths import FACES, GROUPS, GROUPS_FIGURES, GROUPS_PAGE
from pipelines.faces import people

SHOWN = 12


def main(params: Params, report: _step.Report) -> None:
    own = params.groups
    cut = _engines.numbers(own.count, params.runner.shard)
    manifest = _engines.make(
        params,
        GROUPS,
        Group,
        worker=_worker,
        rows=partial(_rows, params, cut),
        shards=len(cut),
        settings=_models.pins(
            params, params.models.face, params.models.detector, params.models.clip
        )
        | own.model_dump(),
        inputs=[FACES],
        finish=_engines.card(
            GROUPS,
            Group,
            title="Groups",
            text="Several people in one picture, each with a name, a place, five landmarks and a"
            " mask (AnyPhoto).",
            filters=groups.FILTERS,
            settings={"groups": own.model_dump()} | _engines.seeing(params),
        ),
    )
    steps = data_page.steps(("photos", own.count), manifest, groups.FILTERS)
    print(" -> ".join(f"{count:,} {name}" for name, count in steps))
    figures = _measure(params)
    for name, figure in figures.items():
        print(f"wrong names, {name}: {data_page.shown(figure)}")
    plain = {name: figure.rounded() for name, figure in figures.items()}
    replace_text(GROUPS_FIGURES, json.dumps({"funnel": dict(steps)} | plain, indent=2) + "\n")
    data_page.publish(
        GROUPS_PAGE,
        title="Groups",
        text="People with names at places: each face has a box, five landmarks, the person's mask"
        " and the identity whose references it matches.",
        funnel_steps=steps,
        lines=data_page.lines("wrong names", figures),
        kept=data_page.sample(read(GROUPS, Group), SHOWN, key="groups"),
        refused=data_page.sample_rejected(read_rejected(GROUPS, Group), SHOWN, key="groups"),
        show=_show,
    )
    report(
        _engines.counts(manifest)
        | {"page": str(GROUPS_PAGE / "index.html"), "funnel": str(GROUPS_PAGE / "funnel.png")}
    )


def _measure(params: Params) -> dict[str, Any]:
    """How many photos with a planted wrong name are refused, and how many sound ones."""
    crowd = people(params)
    planted = {
        photo.id: photo.misnamed is not None
        for photo in map(crowd.photo, range(params.groups.count))
    }
    kept = {row.id for row in read(GROUPS, Group)}
    refused = {row.id: row.filter for row in read_rejected(GROUPS, Group)}
    known = {id: wrong for id, wrong in planted.items() if id in kept or id in refused}
    named = {id for id, name in refused.items() if name != groups.FILTERS[0]}
    result = {}
    if any(known.values()):
        result["recall"] = proportion(id in refused for id in known if known[id])
    if named:
        result["precision"] = proportion(known[id] for id in named)
    result["sound ones lost"] = proportion(id in refused for id in known if not known[id])
    return result


def _rows(params: Params, cut: Sequence[range], index: int) -> Iterator[Annotated]:
    crowd = people(params)
    for number in cut[index]:
        yield crowd.photo(number)


def _worker(params: Params) -> groups.Groups:
    own = params.groups
    captioner, names = _models.captioner(params)
    bank: dict[str, list[Any]] = {}
    for face in read(FACES, BankFace):
        bank.setdefault(face.identity, []).append(face.embedding)
    return groups.Groups(
        finder=_models.faces(params),
        detector=_models.detector(params),
        segmenter=_models.segmenter(params),
        captioner=captioner,
        bank={name: np.array(rows, np.float32) for name, rows in bank.items()},
        rules=groups.Rules(
            box_weight=own.box_weight,
            match=own.match,
            similarity=own.similarity,
            detection=params.perception.detection,
        ),
        names=(pinned("detector", params.models.detector), *names),
    )


def _show(row: Group) -> Unit:
    boxes = tuple(
        DrawnBox(box_xyxy01=face.box.xyxy01, colour=k) for k, face in enumerate(row.faces)
    )
    points = tuple(
        DrawnPoint(point_xy01=(face.landmarks[i], face.landmarks[i + 1]), colour=k)
        for k, face in enumerate(row.faces)
        for i in range(0, 10, 2)
    )
    people = np.zeros(row.image.array().shape, np.uint8)
    for face in row.faces:
        people = np.maximum(people, face.person.array())
    lines = [
        Line(text=face.identity, value=f"{face.similarity:.2f}", colour=k)
        for k, face in enumerate(row.faces)
    ]
    return Unit(
        tiles=(
            Tile(image=row.image.array(), boxes=boxes, points=points),
            Tile(image=people, label="persons"),
        ),
        text=row.prompt,
        lines=tuple(lines),
    )


if __name__ == "__main__":
    sys.exit(_step.run(main))
