"""What the stages `encode` and `adapters` agree on: a subject's examples and their facts."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from insitu.backbones.parts import encoder_digests
from insitu.digest import code_digest
from insitu.errors import UserError
from insitu.methods import Example, Method, Placement, Request, find
from insitu.methods.dreammix import data
from insitu.methods.dreammix.data import Views
from insitu.params import Params
from insitu.records import read
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.training.encoding import Facts
from pipelines._paths import REGULARIZATION, SUBJECTS

CODE = ("backbones", "methods/__init__", "records", "requests")
"""That decides what is encoded, beside the method's own."""
Rows = tuple[list[SubjectPhoto], list[RegularPhoto]]


def subjects() -> list[str]:
    """The names of all that have photos, sorted."""
    return sorted(path.name for path in SUBJECTS.iterdir() if path.is_dir())


def require(subjects: Sequence[str], names: Sequence[str]) -> list[str]:
    """The subjects that were asked for, or all. Raises UserError for one without photos."""
    for subject in subjects:
        if subject not in names:
            raise UserError(
                f"The subject {subject!r} was asked for.",
                f"There are no photos of it in {SUBJECTS}.",
                f"Use one of: {', '.join(names)}; or run the stage `subjects` first.",
            )
    return list(subjects or names)


def rows(name: str, root: Path = Path()) -> Rows:
    """A subject's photos and regularization pictures."""
    photos = list(read(root / SUBJECTS / name, SubjectPhoto))
    return photos, list(read(root / REGULARIZATION / name, RegularPhoto))


def method(params: Params) -> Method:
    settings: Any = getattr(params.tune, params.tune.method)
    return find(params.tune.method, settings.model_dump())


def examples(params: Params, rows: Rows, size: int) -> list[Example]:
    """What a subject's adapter learns from; `size` = side in pixels, the base's."""
    own = params.tune
    views = Views(
        size=size, context=own.dreammix.context, masks=own.masks, grow=own.grow,
        identifier=own.identifier, words=_words(params, rows[0]), seed=params.seed,
    )  # fmt: skip
    return data.examples(*rows, views)


def facts(params: Params, rows: Rows) -> Facts:
    """All that a subject's encoded examples follow from, in words for people."""
    own = params.tune
    return encoder_digests(params.models.inpaint) | {
        "photos": _digest(rows),
        "crop": f"the box and {own.dreammix.context} more",
        "masks": f"{own.masks}, grown by up to {own.grow}, seed {params.seed}",
        "identifier": identifier(params, rows[0]),
        "format": params.dtype,
        "method": own.method,
        "code": code_digest(*CODE, f"methods/{own.method}")[:16],
    }


def identifier(params: Params, photos: Sequence[SubjectPhoto]) -> str:
    """What stands before the class word where a prompt means the subject."""
    return " ".join([params.tune.identifier, *_words(params, photos)])


def requests(photos: Sequence[SubjectPhoto], params: Params) -> list[Request]:
    """The subject painted anew into its own photos, at most four."""
    return [
        Request(
            image=photo.image.array(), seed=params.seed,
            placements=(Placement(box_xyxy01=photo.box.xyxy01),),
            prompt=f"a {identifier(params, photos)} {photo.class_word}",
        )
        for photo in photos[:4]
    ]  # fmt: skip


def _words(params: Params, photos: Sequence[SubjectPhoto]) -> tuple[str, ...]:
    return photos[0].attributes if params.tune.described else ()


def _digest(rows: Rows) -> str:
    """Over everything that photos and regularization pictures teach, in their order."""
    total = hashlib.sha256()
    every: list[SubjectPhoto | RegularPhoto] = [*rows[0], *rows[1]]
    for photo in every:
        words = photo.prompt if isinstance(photo, RegularPhoto) else photo.class_word
        picture = hashlib.sha256(photo.image.data).hexdigest()
        told = [photo.id, words, list(photo.box.xyxy01), picture]
        total.update(f"{json.dumps(told)}\n".encode())
    return total.hexdigest()[:16]
