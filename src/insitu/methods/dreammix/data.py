"""What DreamMix learns from: a subject's photos and the regularization pictures of its class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from insitu.backbones.zoom import Window, box_mask
from insitu.methods import VALIDATION, Box, Example, Image
from insitu.randomness import rng_for
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto

SUBJECT, REGULAR = "subject", "regular"


@dataclass(frozen=True, kw_only=True)
class Views:
    """How a photo becomes examples.

    Attributes:
        size: side in pixels, the base's.
        context: how much longer the square that is looked at is than the box, as a share.
        masks: of each picture.
        grow: how much longer a mask's sides become at most than the box's, as a share.
        identifier: the word that stands for the subject.
        words: what is said of the subject between identifier and class; empty = nothing.
        seed: of how masks grow.
    """

    size: int
    context: float
    masks: int
    grow: float
    identifier: str
    words: tuple[str, ...]
    seed: int


def examples(
    photos: Sequence[SubjectPhoto], regular: Sequence[RegularPhoto], views: Views
) -> list[Example]:
    """Every picture with each of its masks, and every photo with its own box for validation."""
    found = []
    for photo in photos:
        prompt = " ".join(["a", views.identifier, *views.words, photo.class_word])
        found += _views(photo, prompt, SUBJECT, views)
        image, box = _square(photo, views)
        found.append(
            Example(
                id=f"{photo.id}#validation", image=image, mask=box_mask(box, image),
                prompt=prompt, pool=VALIDATION,
            )
        )  # fmt: skip
    for picture in regular:
        # The base was asked without the identifier, which goes in now.
        described = " ".join([*picture.attributes, picture.class_word])
        article = "an" if described[0] in "aeiou" else "a"
        prompt = f"{article} {views.identifier} {described}"
        found += _views(picture, prompt, REGULAR, views)
    return found


def _views(
    photo: SubjectPhoto | RegularPhoto, prompt: str, pool: str, views: Views
) -> list[Example]:
    image, box = _square(photo, views)
    result = []
    for index in range(views.masks):
        rng = rng_for("mask", views.seed, photo.id, index)
        mask = box_mask(_grown(box, views.grow, rng), image)
        id = f"{photo.id}#{index}"
        result.append(Example(id=id, image=image, mask=mask, prompt=prompt, pool=pool))
    return result


def _square(photo: SubjectPhoto | RegularPhoto, views: Views) -> tuple[Image, Box]:
    """The square around the box cut out of the photo, as painting does, and the box in it."""
    image, box = photo.image.array(), photo.box.xyxy01
    window = Window.around(box, image, context=views.context)
    height, width = image.shape[:2]
    corners = np.array(box) * (width, height, width, height)
    inside = (corners - np.array([window.left, window.top] * 2)) / window.side
    x0, y0, x1, y1 = (float(v) for v in np.clip(inside, 0, 1))
    return window.cut(image, views.size), (x0, y0, x1, y1)


def _grown(box: Box, most: float, rng: np.random.Generator) -> Box:
    """Each edge moved out by its own share, up to half of `most`, within the picture."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = rng.uniform(0, most / 2, 4)
    wide, high = x1 - x0, y1 - y0
    return (
        max(0.0, x0 - left * wide),
        max(0.0, y0 - top * high),
        min(1.0, x1 + right * wide),
        min(1.0, y1 + bottom * high),
    )
