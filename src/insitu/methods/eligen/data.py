"""What EliGen learns from: pictures of the base's own, with entities in words and boxes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from insitu.methods import VALIDATION, Example, Placement, Request
from insitu.methods.eligen.regions import scaled
from insitu.randomness import rng_for
from insitu.records import Record
from insitu.records.engines import EntityPicture

if TYPE_CHECKING:
    from insitu.methods.eligen.method import Settings

SETS: Mapping[str, type[Record]] = {"entities": EntityPicture}
LEARN = "entities"
"""The pool of what is learned from."""
ENCODED = ("most",)
POOLS = {"train": LEARN, "validation": VALIDATION}


def examples(
    rows: Mapping[str, Iterable[Any]], settings: "Settings", *, size: int, seed: int
) -> Iterator[Example]:
    """Each picture with its entities; of more than `settings.most`, those with the largest boxes.

    The rows of the split `test` are left for `requests`.
    """
    for row in rows["entities"]:
        if row.split in POOLS:
            yield Example(
                id=row.id,
                image=scaled(row.image.array(), size, size),
                prompt=row.prompt,
                pool=POOLS[row.split],
                placements=_placements(row, settings.most),
            )


def requests(
    rows: Mapping[str, Iterable[Any]], settings: "Settings", *, size: int, seed: int, split: str
) -> Iterator[Request]:
    """The rows of a split, asked for as whole pictures; their own gives only the size."""
    for row in rows["entities"]:
        if row.split == split:
            yield Request(
                image=scaled(row.image.array(), size, size),
                prompt=row.prompt,
                placements=_placements(row, settings.most),
                background="free",
                seed=int(rng_for("eligen", seed, row.id).integers(2**31)),
            )


def _placements(row: EntityPicture, most: int) -> tuple[Placement, ...]:
    def area(k: int) -> float:
        box = row.entities[k].box
        return (box.x1 - box.x0) * (box.y1 - box.y0)

    largest = sorted(range(len(row.entities)), key=area, reverse=True)[:most]
    return tuple(
        Placement(box_xyxy01=row.entities[k].box.xyxy01, prompt=row.entities[k].prompt)
        for k in sorted(largest)
    )
