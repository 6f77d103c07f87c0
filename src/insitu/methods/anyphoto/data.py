"""What AnyPhoto learns from: group photos, and the bank of faces of who is on them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insitu.backbones.zoom import Window
from insitu.errors import UserError
from insitu.methods import VALIDATION, Box, Example, Image, Placement, Request
from insitu.randomness import rng_for
from insitu.records.engines import BankFace, Face, Group

SETS = {"groups": Group, "faces": BankFace}
LEARN = "groups"
ENCODED = (
    "faces", "location", "patch", "scale", "box", "variants", "degradations", "degrade", "severity",
    "face",
)  # fmt: skip
Landmarks = tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A picture of a face and its five landmarks in shares of it."""

    image: Image
    landmarks_xy01: Landmarks


@dataclass(frozen=True, kw_only=True)
class Person(Placement):
    """A face of a photo that is learned from; its reference is that photo.

    Attributes:
        others: other pictures of the same identity.
    """

    others: tuple[Portrait, ...] = ()


class Bank:
    """Portraits by identity, each decoded once."""

    def __init__(self, rows: Iterable[BankFace]) -> None:
        self._rows: dict[str, list[BankFace]] = {}
        for row in rows:
            self._rows.setdefault(row.identity, []).append(row)
        self._decoded: dict[str, Portrait] = {}

    def of(self, identity: str) -> tuple[Portrait, ...]:
        return tuple(self._portrait(row) for row in self._rows.get(identity, ()))

    def _portrait(self, row: BankFace) -> Portrait:
        if row.id not in self._decoded:
            self._decoded[row.id] = Portrait(
                image=row.image.array(), landmarks_xy01=_points(row.landmarks)
            )
        return self._decoded[row.id]


def examples(
    rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int
) -> Iterator[Example]:
    """Kept photos of the split `train`, and those of `validation`: a square of each with all faces.

    Raises:
        UserError: photos show more faces than the method takes.
    """
    faces = {row.id: len(row.faces) for row in _of(rows, "train", "validation")}
    crowded = [id for id, count in faces.items() if count > settings.faces]
    if crowded:
        largest = max(faces.values())
        raise UserError(
            f"{len(crowded)} photos show more than {settings.faces} faces, first {crowded[0]}.",
            "A face without its reference would teach that references need not be followed.",
            f"Set anyphoto.faces to {largest}, or leave those photos out of the groups.",
        )
    bank = Bank(rows["faces"])
    for row in _of(rows, "train", "validation"):
        photo = row.image.array()
        window = square(row, photo, seed)
        yield Example(
            id=row.id,
            image=window.cut(photo, size),
            prompt=row.prompt,
            pool=LEARN if row.split == "train" else VALIDATION,
            placements=tuple(_person(face, photo, window, bank) for face in row.faces),
        )


def requests(
    rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int, split: str
) -> Iterator[Request]:
    """Photos of a split to be made anew, with landmarks as they are and references from the bank.

    Raises:
        UserError: the bank has no face of someone.
    """
    bank = Bank(rows["faces"])
    for number, row in enumerate(_of(rows, split)):
        photo = row.image.array()
        window = square(row, photo, seed)
        placements = []
        for face in row.faces:
            references = bank.of(face.identity)
            if not references:
                raise UserError(
                    f"The photo {row.id} names {face.identity}.",
                    "The face bank has no picture of that identity, so it cannot be asked for.",
                    "Make groups and faces from the same people: dvc repro groups faces.",
                )
            placements.append(
                Placement(
                    box_xyxy01=_box(face, photo, window),
                    landmarks_xy01=_landmarks(face, photo, window),
                    reference=references[0].image,
                    reference_landmarks_xy01=references[0].landmarks_xy01,
                )
            )
        yield Request(
            image=window.cut(photo, size), placements=tuple(placements), prompt=row.prompt,
            seed=seed + number, background="free",
        )  # fmt: skip


def square(row: Group, photo: Image, seed: int) -> Window:
    """A square of the photo, at random, that holds every face's box (appendix A.2, step 3).

    Its side is the photo's shorter one. Where faces are further apart it is as long as they need,
    and beyond the photo its border is repeated.
    """
    height, width = photo.shape[:2]
    boxes = np.array([face.box.xyxy01 for face in row.faces]) * (width, height, width, height)
    low = np.floor(boxes[:, :2].min(0)).astype(int)
    high = np.ceil(boxes[:, 2:].max(0)).astype(int)
    side = max(min(height, width), int((high - low).max()))
    rng = rng_for("square", seed, row.id)
    start = []
    for first, last, extent in zip(low, high, (width, height), strict=True):
        if side > extent:
            start.append((extent - side) // 2)
        else:
            start.append(int(rng.integers(max(0, last - side), min(extent - side, first) + 1)))
    return Window(left=start[0], top=start[1], side=side)


def _of(rows: Mapping[str, Iterable[Any]], *splits: str) -> Iterator[Group]:
    return (row for row in rows["groups"] if row.split in splits)


def _person(face: Face, photo: Image, window: Window, bank: Bank) -> Person:
    return Person(
        box_xyxy01=_box(face, photo, window),
        landmarks_xy01=_landmarks(face, photo, window),
        reference=photo,
        reference_landmarks_xy01=_points(face.landmarks),
        others=bank.of(face.identity),
    )


def _landmarks(face: Face, photo: Image, window: Window) -> Landmarks:
    return _inside(_points(face.landmarks), photo, window)


def _box(face: Face, photo: Image, window: Window) -> Box:
    x0, y0, x1, y1 = face.box.xyxy01
    (left, top), (right, bottom) = _inside(((x0, y0), (x1, y1)), photo, window)
    return max(0.0, left), max(0.0, top), min(1.0, right), min(1.0, bottom)


def _inside(points: Landmarks, photo: Image, window: Window) -> Landmarks:
    """Points of the photo in shares of the square."""
    height, width = photo.shape[:2]
    moved = (np.array(points) * (width, height) - (window.left, window.top)) / window.side
    return tuple((float(x), float(y)) for x, y in moved)


def _points(numbers: Sequence[float]) -> Landmarks:
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))
