"""What UNO learns from: pictures of BoundID, with the references of who is in them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from insitu.backbones.zoom import closer, resized
from insitu.edits import article
from insitu.methods import VALIDATION, Example, Placement, Request
from insitu.records import Record
from insitu.records.engines import BoundId
from insitu.requests import EVERYWHERE

SETS: Mapping[str, type[Record]] = {"boundid": BoundId}
LEARN = "boundid"
ENCODED = ("most", "reference_size")
CONTEXT = 0.2
"""A reference's square is this much longer than the box of the thing in it."""


def examples(
    rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int
) -> Iterator[Example]:
    """Kept rows of the split `train`, and those of `validation`."""
    for row in rows["boundid"]:
        if row.split in ("train", VALIDATION):
            yield Example(
                id=row.id, image=resized(row.image.array(), size, size), prompt=_prompt(row),
                placements=_placements(row), pool=LEARN if row.split == "train" else VALIDATION,
            )  # fmt: skip


def requests(
    rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int, split: str
) -> Iterator[Request]:
    """Rows of a split, asked for as whole pictures."""
    for number, row in enumerate(row for row in rows["boundid"] if row.split == split):
        yield Request(
            image=resized(row.image.array(), size, size), placements=_placements(row),
            prompt=_prompt(row), seed=seed + number, background="free",
        )  # fmt: skip


def _prompt(row: BoundId) -> str:
    """The row's prompt with the word for each thing in place of its description.

    What the words say the base paints without looking, so that references would teach little.
    """
    words = row.prompt
    for reference in row.references:
        words = words.replace(reference.description, article(reference.category), 1)
    return words


def _placements(row: BoundId) -> tuple[Placement, ...]:
    found = []
    for reference in row.references:
        image = closer(reference.image.array(), reference.box.xyxy01, context=CONTEXT)
        found.append(Placement(box_xyxy01=EVERYWHERE, reference=image, prompt=reference.category))
    return tuple(found)
