"""What the stages `prepare` and `train` agree on: a method's rows, examples and their facts."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from insitu.backbones.bases import size_of
from insitu.backbones.parts import encoder_digests
from insitu.digest import code_digest, file_digest
from insitu.errors import UserError
from insitu.methods import VALIDATION, Example, Method, Request, data_of, find, pinned
from insitu.params import Params
from insitu.records import Record, read
from insitu.records.manifest import MANIFEST
from insitu.training.encoding import Facts

PINS = {"path", "revision"}
CODE = ("backbones", "methods/__init__", "records", "requests")
"""That decides what is encoded, beside the method's own."""
DATA = Path("data")
HELD_OUT = ("test", VALIDATION)
"""Splits; the latter is only looked at while a method is trained."""


class Rows(Iterable[Record]):
    """The kept rows of a data set, read anew each time they are gone through."""

    def __init__(self, folder: Path, kind: type[Record]) -> None:
        self.folder, self.kind = folder, kind

    def __iter__(self) -> Iterator[Record]:
        return iter(read(self.folder, self.kind))


def method(params: Params, name: str) -> Method:
    settings, _ = params.learned(name)
    return find(name, pinned(name, settings, params.models))


def rows(name: str, data: Path = DATA) -> Mapping[str, Rows]:
    """By the names of the data sets that the method learns from, which lie in `data`."""
    return {each: Rows(data / each, kind) for each, kind in data_of(name).SETS.items()}


def examples(params: Params, name: str, data: Path = DATA) -> Iterator[Example]:
    own = method(params, name)
    return data_of(name).examples(rows(name, data), own.settings, **_size(params, own))


def requests(params: Params, name: str, splits: Sequence[str], most: int) -> list[Request]:
    """Rows of splits, one split after the other, as they would be asked for, `most` at most.

    Raises:
        UserError: there is none.
    """
    own, data = method(params, name), data_of(name)
    size = _size(params, own)
    made = (
        request
        for split in splits
        for request in data.requests(rows(name), own.settings, split=split, **size)
    )
    found = list(itertools.islice(made, most))
    if not found:
        folders = ", ".join(str(DATA / each) for each in data.SETS)
        raise UserError(
            f"{name} was to be asked for what it never learns from, by rows of {folders}.",
            f"No row is of the split {' or '.join(splits)}.",
            "Make more rows, or raise the shares pairs.validation and pairs.test.",
        )
    return found


def facts(params: Params, name: str, data: Path = DATA) -> Facts:
    """All that a method's encoded examples follow from, in words for people."""
    own = method(params, name)
    checkpoint = getattr(params.models, own.base)
    sets = {each: file_digest(data / each / MANIFEST)[:16] for each in sorted(data_of(name).SETS)}
    chosen = pinned(name, params.learned(name)[0], params.models)
    settings = {f"{name}.{key}": json.dumps(chosen[key]) for key in data_of(name).ENCODED}
    return (
        encoder_digests(checkpoint)
        | sets
        | settings
        | {
            "sizes": json.dumps(_size(params, own) | checkpoint.model_dump(exclude=PINS)),
            "seed": str(params.seed),
            "format": params.dtype,
            "method": own.name,
            "code": code_digest(*CODE, f"methods/{name}")[:16],
        }
    )


def _size(params: Params, method: Method) -> dict[str, Any]:
    """Side in pixels that a method's base works on: the settings' or the checkpoint's own."""
    checkpoint = getattr(params.models, method.base)
    return {"size": size_of(method.base, checkpoint), "seed": params.seed}
