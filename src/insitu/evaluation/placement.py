"""Placing a subject in held-out scenes: the places, and what the subject looks like."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.metrics import Photo
from insitu.records.subjects import SubjectPhoto

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A held-out photo with room for a thing, and what the place is called.

    `image` is square; `freed_xyxy01` is the square where a thing stood that is not in the photo.
    """

    image: Image
    freed_xyxy01: Box
    text: str

    def box(self, proportions: float) -> Box:
        """The freed square as wide as it is tall times `proportions`, standing on its ground."""
        x0, y0, x1, y1 = self.freed_xyxy01
        width = (x1 - x0) * min(1.0, proportions)
        height = (y1 - y0) * min(1.0, 1 / proportions)
        left = (x0 + x1 - width) / 2
        return left, y1 - height, left + width, y1


def places(count: int, *, size: int, seed: int) -> list[Place]:
    """Scenes of one or two things, with room for one more in front of them."""
    found = []
    for index in range(count):
        rng = world.rng_for("held-out", "placement", seed, index)
        scene = world.sample_scene(rng, count=2 + index % 2, people=False, style="photo")
        # Back to front: the last thing hides the others, and gives way.
        rest = replace(scene, things=scene.things[:-1], frames=scene.frames[:-1])
        found.append(
            Place(
                image=world.render(rest, size).image,
                freed_xyxy01=_square(world.render(scene, size).things[-1].box_xyxy01),
                text=world.place(scene),
            )
        )
    return found


def _square(box: Box) -> Box:
    """The square around a box, moved into the picture: room for a subject of any proportions."""
    x0, y0, x1, y1 = box
    side = min(1.0, max(x1 - x0, y1 - y0))
    left = min(max((x0 + x1 - side) / 2, 0.0), 1 - side)
    top = min(max((y0 + y1 - side) / 2, 0.0), 1 - side)
    return left, top, left + side, top + side


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a subject looks like, photo by photo, and the word for what it is."""

    photos: tuple[Photo, ...]
    class_word: str

    @classmethod
    def of(cls, photos: Sequence[SubjectPhoto]) -> Self:
        return cls(
            photos=tuple(
                Photo(image=photo.image.array(), box_xyxy01=photo.box.xyxy01) for photo in photos
            ),
            class_word=photos[0].class_word,
        )

    @property
    def proportions(self) -> float:
        """Width over height: the boxes' geometric mean."""
        pixels = [np.array(p.box_xyxy01) * np.tile(p.image.shape[1::-1], 2) for p in self.photos]
        return float(np.exp(np.mean([np.log((x1 - x0) / (y1 - y0)) for x0, y0, x1, y1 in pixels])))
