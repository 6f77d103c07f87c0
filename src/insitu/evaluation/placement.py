"""Placing a subject in held-out scenes: the cases, and how alike the outcome is.

CLIP-I and DINO: mean cosine of the box's crop with each reference photo's (DreamBooth, Ruiz et al.
2023, section 4.1); CLIP-T: cosine of the crop with the class's text. All are of the box, since the
rest of the picture is the photo's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.clip import ClipScorer
from insitu.perception.dino import IdentityEncoder, crop_square
from insitu.records.subjects import SubjectPhoto

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
METRICS = ("dino", "clip_i", "clip_t")
CROP = 64
"""Side of the crops that are compared; the models resize them to their own."""


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

    images: Sequence[Image]
    boxes_xyxy01: Sequence[Box]
    class_word: str

    @classmethod
    def of(cls, photos: Sequence[SubjectPhoto]) -> Self:
        return cls(
            images=[photo.image.array() for photo in photos],
            boxes_xyxy01=[photo.box.xyxy01 for photo in photos],
            class_word=photos[0].class_word,
        )

    @property
    def proportions(self) -> float:
        """Width over height: the boxes' geometric mean."""
        pixels = [
            np.array(box) * np.tile(image.shape[1::-1], 2)
            for image, box in zip(self.images, self.boxes_xyxy01, strict=True)
        ]
        return float(np.exp(np.mean([np.log((x1 - x0) / (y1 - y0)) for x0, y0, x1, y1 in pixels])))


class Scorer:
    """Scores placed pictures of one subject."""

    def __init__(self, *, clip: ClipScorer, dino: IdentityEncoder) -> None:
        self.clip, self.dino = clip, dino

    def score(
        self, pictures: Sequence[Image], boxes_xyxy01: Sequence[Box], reference: Reference
    ) -> dict[str, NDArray[np.float64]]:
        """Each of `METRICS` for each picture [N], cosines in -1..1."""
        crops = [crop_square(p, b, CROP, 0.0) for p, b in zip(pictures, boxes_xyxy01, strict=True)]
        known = [
            crop_square(p, b, CROP, 0.0)
            for p, b in zip(reference.images, reference.boxes_xyxy01, strict=True)
        ]
        dino = self.dino.embed_images(crops) @ self.dino.embed_images(known).T
        seen = self.clip.embed_images(crops)
        clip_i = seen @ self.clip.embed_images(known).T
        clip_t = seen @ self.clip.embed_texts([world.article(reference.class_word)]).T
        return {
            name: cosines.mean(1).double().numpy()
            for name, cosines in zip(METRICS, (dino, clip_i, clip_t), strict=True)
        }
