"""What is measured: a generated picture, what was asked for, and what is known about it."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from insitu.backbones.zoom import box_mask
from insitu.errors import UserError

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[float, float, float, float]
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


# Compared by identity: what a model said of one is looked up by it.
@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A picture in which one thing or person is known.

    Attributes:
        image: uint8 [H, W, 3].
        box_xyxy01: where it is, in shares of width and height; for people, the face.
        mask_HW: its pixels, if they are known.
    """

    image: Image
    box_xyxy01: Box = (0.0, 0.0, 1.0, 1.0)
    mask_HW: Mask | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Entity:
    """One thing or person that was asked for.

    Attributes:
        box_xyxy01: where it was asked to be.
        mask_HW: the pixels it was asked to be within; the box's where there is none.
        text: what was asked for, e.g. "a red mug"; detectors look for it.
        category: its noun, e.g. "mug", in which attributes are told.
        attributes: asked values by attribute, e.g. {"colour": "red"}.
        references: what it is to look like.
        truth: it in a true picture, where there is one.
    """

    box_xyxy01: Box
    mask_HW: Mask | None = None
    text: str = ""
    category: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    references: tuple[Photo, ...] = ()
    truth: Photo | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One sample.

    Attributes:
        image: the generated picture, uint8 [H, W, 3]; None if none was made.
        failure: why none was made, given exactly then.
        entities: what it was to show.
        text: the global prompt.
        source: the picture that was to be changed within the entities' masks only.

    Raises:
        ValueError: neither a picture nor a reason for its absence, or both.
    """

    image: Image | None
    failure: str = ""
    entities: tuple[Entity, ...] = ()
    text: str = ""
    source: Image | None = None

    def __post_init__(self) -> None:
        if (self.image is None) != bool(self.failure):
            raise ValueError("a case has either a picture or a reason why it has none")

    @property
    def picture(self) -> Image:
        """The picture of a case that has one."""
        assert self.image is not None
        return self.image


def asked_mask(case: Case, canvas_HWC: Image) -> Mask:
    """Where the case's entities were asked to be, bool [H, W] of a canvas of its pictures' size.

    Raises:
        UserError: there is no entity, or a mask has another size.
    """
    if not case.entities:
        raise missing("entities", "no mask says where the picture was to change")
    whole = np.zeros(canvas_HWC.shape[:2], np.bool_)
    for entity in case.entities:
        whole |= entity_mask(entity, canvas_HWC)
    return whole


def entity_mask(entity: Entity, canvas_HWC: Image) -> Mask:
    """One entity's part of `asked_mask`."""
    if entity.mask_HW is None:
        return box_mask(entity.box_xyxy01, canvas_HWC) > 0
    if entity.mask_HW.shape != canvas_HWC.shape[:2]:
        raise UserError(
            f"A mask of {_size(entity.mask_HW)} pixels was given with a picture of"
            f" {_size(canvas_HWC)}.",
            "A mask says which of the picture's own pixels may change.",
            "Resize the mask to the picture.",
        )
    return entity.mask_HW


def size_mismatch(image_HWC: Image, other_HW: Image | Mask, name: str) -> str:
    """Why two pictures cannot be compared pixel by pixel; "" if they can."""
    if image_HWC.shape[:2] == other_HW.shape[:2]:
        return ""
    return f"the picture has {_size(image_HWC)} pixels, its {name} {_size(other_HW)}"


def missing(what: str, why: str) -> UserError:
    """A case lacks what a metric compares with: a fault of the benchmark, not of the picture."""
    return UserError(
        f"A case without {what} was to be measured.",
        f"A metric that needs them has nothing to compare with: {why}.",
        f"Give every case its {what}, or leave this metric out.",
    )


def _size(image: Image | Mask) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


class Remembered(Generic[K, V]):
    """What a model said when it was asked last.

    Several metrics share a model and are called with the same cases in turn: the first call asks
    the model, the others look the answers up. Answers to other questions are forgotten.
    """

    def __init__(self, answer: Callable[[list[K]], Sequence[V]]) -> None:
        """`answer` maps questions to answers in the same order."""
        self._answer = answer
        self._known: dict[K, V] = {}

    def __call__(self, asked: Sequence[K]) -> list[V]:
        new = [one for one in dict.fromkeys(asked) if one not in self._known]
        answers = self._answer(new) if new else ()
        known = self._known | dict(zip(new, answers, strict=True))
        self._known = {one: known[one] for one in asked}
        return [known[one] for one in asked]
