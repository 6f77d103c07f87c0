"""Items of the claims' benchmarks: held-out rows of a method's data sets, or what a description
file in `benchmarks/sets` says.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from insitu.errors import UserError
from insitu.evaluation import sets
from insitu.evaluation.claims.registered import Benchmark
from insitu.evaluation.placement import Reference
from insitu.evaluation.sets import Item
from insitu.evaluation.sets.description import WORLD
from insitu.params import Params
from pipelines import _methods, _tuning
from pipelines._paths import ATTRIBUTES

ROWS = "rows"
EVERY = 100_000


def items(params: Params, method: str, asked: Benchmark, eyes: Any) -> list[Item]:
    """A benchmark's items; where faces are judged, without those that the judge cannot read.

    Raises:
        UserError: there are fewer than two.
    """
    if asked.of == ROWS:
        found = [
            _row(request) for request in _methods.requests(params, method, _methods.HELD_OUT, EVERY)
        ]
    else:
        told = sets.load(asked.of)
        if told.kind == "people":
            assert told.scenes is not None  # of this kind
            if told.scenes.path == WORLD:
                raise UserError(
                    f"The benchmark {asked.of} asks for people of the world.",
                    f"Those are held-out rows of the groups: `of: {ROWS}`.",
                    "Give the folder of the cases as scenes.path.",
                )
            folder = Path(told.scenes.path)
            found = sets.people_of(folder, eyes.faces, told.scenes.count, seed=told.seed)
        else:
            found = sets.items_of(told, asked.requests)
    chosen = [item for item in found if asked.groups is None or item.group in asked.groups]
    readable = _readable(chosen, eyes)[: asked.requests]
    if len(readable) < 2:
        raise UserError(
            f"The benchmark {asked.of} of {method} was to be painted.",
            f"It has {len(readable)} requests in {asked.groups or 'all groups'}.",
            "Make more rows, or correct its groups in the claims file.",
        )
    return readable


def of_subject(
    params: Params, asked: Benchmark, name: str, photos: Any, root: Path
) -> list[Item]:  # fmt: skip
    """A tuned subject's items."""
    tuned = sets.Tuned(
        reference=Reference.of(photos), identifier=_tuning.identifier(params, photos),
        attributes=json.loads((root / ATTRIBUTES).read_text())[name],
        vocabulary=params.subjects.attributes.model_dump(),
    )  # fmt: skip
    return sets.tuned_of(sets.load(asked.of), tuned, asked.requests)


def _row(request: Any) -> Item:
    item = Item.of(request)
    people = len(request.placements)
    return replace(item, group=f"{people} people") if item.entities[0].truth else item


def _readable(items: list[Item], eyes: Any) -> list[Item]:
    """Without those in whose own photo or references the judge does not find the faces."""
    found = []
    for item in items:
        if any(entity.truth for entity in item.entities):
            try:
                eyes.reader.photos([p for e in item.entities for p in (e.truth, *e.references)])
            except UserError:
                continue
        found.append(item)
    return found
