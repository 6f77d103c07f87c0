"""What Inpaint-Anywhere learns from: rows of BoundID."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from insitu.backbones.zoom import box_mask, closer, resized
from insitu.methods import VALIDATION, Box, Example, Image, Placement, Request
from insitu.methods.inpaint_anywhere.method import Settings
from insitu.methods.inpaint_anywhere.painting import placeholder
from insitu.records.engines import BoundId
from insitu.records.engines import Reference as BankReference

SETS = {"boundid": BoundId}
LEARN = "boundid"
ENCODED = ("most", "reference_size", "fill", "category")
CONTEXT = 0.2
"""How much longer the square of a reference is than the box that it is seen in, as a share."""


def examples(
    rows: Mapping[str, Iterable[Any]], settings: Settings, *, size: int, seed: int
) -> Iterator[Example]:
    """Kept rows of the split `train`, and those of `validation`."""
    for row in _of(rows, "train", "validation"):
        image = resized(row.image.array(), size, size)
        placements = _placements(row, settings)
        mask = np.zeros(image.shape[:2], np.uint8)
        for placement in placements:
            mask |= box_mask(placement.box_xyxy01, image)
        yield Example(
            id=row.id, image=image, mask=mask, prompt=_prompt(row, settings),
            placements=placements, pool=LEARN if row.split == "train" else VALIDATION,
        )  # fmt: skip


def requests(
    rows: Mapping[str, Iterable[Any]], settings: Settings, *, size: int, seed: int, split: str
) -> Iterator[Request]:
    """Pictures of a split with their boxes to be filled anew."""
    for number, row in enumerate(_of(rows, split)):
        yield Request(
            image=resized(row.image.array(), size, size), placements=_placements(row, settings),
            prompt=_prompt(row, settings), seed=seed + number,
        )  # fmt: skip


def _of(rows: Mapping[str, Iterable[Any]], *splits: str) -> Iterator[BoundId]:
    return (row for row in rows["boundid"] if row.split in splits)


def _placements(row: BoundId, settings: Settings) -> tuple[Placement, ...]:
    return tuple(
        Placement(box_xyxy01=_box(box), reference=_closer(reference), prompt=reference.category)
        for box, reference in zip(row.boxes, row.references, strict=True)
    )


def _box(box: Any) -> Box:
    assert box is not None  # filter A keeps no row without one
    found: Box = box.xyxy01
    return found


def _closer(reference: BankReference) -> Image:
    """So close that the thing fills the reference's tokens."""
    return closer(reference.image.array(), reference.box.xyxy01, context=CONTEXT)


def _prompt(row: BoundId, settings: Settings) -> str:
    """The row's prompt with placeholders where it describes the identities."""
    words = row.prompt
    for number, reference in enumerate(row.references, start=1):
        name = placeholder(number)
        if settings.category:
            name = f"{name} {reference.category}"
        words = words.replace(reference.description, name, 1)
    return words
