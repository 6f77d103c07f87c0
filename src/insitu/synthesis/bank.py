"""The subject bank and its pairs: two pictures of each identity, two identities to a picture.

Inpaint-Anywhere, section "BoundID": rows of the bank are (image A, image B of the same identity,
category); a pair is of two distinct identities, one image of each.
"""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from insitu import world
from insitu.errors import UserError
from insitu.randomness import rng_for
from insitu.records import Box, Image, read
from insitu.records.engines import Lineage, Pair, Reference
from insitu.records.pictures import Picture
from insitu.synthesis.sources import split_of

WORLD = "world"


@dataclass(frozen=True, kw_only=True)
class WorldBank:
    """Identities drawn from the world; their names say how to draw them again.

    Attributes:
        identities: how many.
        size: pixels, width and height of the pictures.
        seed: of the bank.
        shares: of identities in validation and in test.
    """

    identities: int
    size: int
    seed: int
    shares: tuple[float, float]

    def __len__(self) -> int:
        return self.identities

    def split(self, index: int) -> str:
        validation, test = self.shares
        return split_of(name_of(self.seed, index), validation=validation, test=test)

    def reference(self, index: int) -> Reference:
        return _world_reference(self.seed, index, self.size)


@functools.lru_cache(maxsize=4096)  # an identity is in several pairs
def _world_reference(seed: int, index: int, size: int) -> Reference:
    subject = subject_of(name_of(seed, index))
    views = [
        world.portrait(subject, rng_for("bank-photo", seed, index, view), size) for view in range(2)
    ]
    return Reference(
        identity=name_of(seed, index),
        category=subject.category,
        description=world.describe(subject, detail="pattern"),
        image=Image.from_array(views[0].image),
        box=_box(views[0].things[0].box_xyxy01),
        other=Image.from_array(views[1].image),
        other_box=_box(views[1].things[0].box_xyxy01),
    )


class PictureBank:
    """Identities of a user's pictures, those that have two or more; the whole picture is the box.

    The category of an identity is its caption, or its name with hyphens and digits taken off:
    `red-mug-3` is asked for as "red mug".
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        by_name: dict[str, list[Picture]] = {}
        for picture in pictures:
            if picture.identity is not None:
                by_name.setdefault(picture.identity, []).append(picture)
        self._rows = [rows for _, rows in sorted(by_name.items()) if len(rows) > 1]
        if len(self._rows) < 2:
            raise UserError(
                f"{len(pictures)} pictures of {len(by_name)} identities were given as a bank.",
                f"{len(self._rows)} of these have two pictures or more, and a pair needs two.",
                "Put two or more pictures of each identity into a folder of its name.",
            )

    def __len__(self) -> int:
        return len(self._rows)

    def split(self, index: int) -> str:
        return self._rows[index][0].split

    def reference(self, index: int) -> Reference:
        first, second = self._rows[index][:2]
        name = str(first.identity)
        words = first.caption or " ".join(part for part in name.split("-") if part.isalpha())
        return Reference(
            identity=name,
            category=words,
            description=world.article(words),
            image=first.image,
            box=WHOLE,
            other=second.image,
            other_box=WHOLE,
        )


Bank = WorldBank | PictureBank
WHOLE = Box(x0=0, y0=0, x1=1, y1=1)


def pairs(bank: Bank, indices: Sequence[int], *, seed: int) -> Iterator[Pair]:
    """The pairs of these numbers; each follows from (seed, number) and the bank alone.

    Both identities are of one split, so that what is validated on was never trained on.
    """
    members: dict[str, list[int]] = {}
    for index in range(len(bank)):
        members.setdefault(bank.split(index), []).append(index)
    pools = {name: pool for name, pool in members.items() if len(pool) > 1}
    if not pools:
        raise UserError(
            f"A bank of {len(bank)} identities was given.",
            "No split has two of them, and a pair is of one split.",
            "Give more identities, or smaller shares for validation and test.",
        )
    sizes = np.array([len(pool) for pool in pools.values()], float)
    for number in indices:
        rng = rng_for("pair", seed, number)
        split = list(pools)[int(rng.choice(len(pools), p=sizes / sizes.sum()))]
        chosen = rng.choice(pools[split], size=2, replace=False)
        references = tuple(bank.reference(int(index)) for index in chosen)
        place = WORLD_PLACES[int(rng.integers(len(WORLD_PLACES)))]
        yield Pair(
            id=f"pair-{number:07d}",
            references=references,
            prompt=f"{references[0].description} and {references[1].description} {place}",
            split=split,
            seed=int(rng.integers(2**31)),
            lineage=Lineage(sources=tuple(_source(r) for r in references), models=()),
        )


def picture_bank(folder: Path) -> PictureBank:
    """The bank of the pictures that the stage `images` read."""
    return PictureBank(list(read(folder, Picture)))


def name_of(seed: int, index: int) -> str:
    """The name of an identity of the world, from which it can be drawn again."""
    return f"{WORLD}-{world.WORLD_VERSION}-{seed}-{index}"


def subject_of(name: str) -> world.Subject:
    """The world's identity of that name.

    Raises:
        UserError: it is none of the world's, or of another version of it.
    """
    parts = name.split("-")
    known = parts[:2] == [WORLD, str(world.WORLD_VERSION)] and len(parts) == 4
    if not known or not all(part.isdecimal() for part in parts[2:]):
        raise UserError(
            f"The identity {name!r} was to be drawn by the world.",
            f"It is none of version {world.WORLD_VERSION} of the world: only its own can be drawn.",
            "Use another generator (`candidates.generator`), or the world's bank.",
        )
    return world.sample_subject(rng_for("bank", int(parts[2]), int(parts[3])), accessory=False)


def _source(reference: Reference) -> str:
    content = hashlib.sha256(reference.image.data + reference.other.data).hexdigest()
    return f"{reference.identity}@{content[:16]}"


def _box(corners: tuple[float, float, float, float]) -> Box:
    x0, y0, x1, y1 = corners
    return Box(x0=x0, y0=y0, x1=x1, y1=y1)


WORLD_PLACES: tuple[str, ...] = tuple(
    phrase for phrase in world.BACKGROUNDS.values() if "{" not in phrase
)
