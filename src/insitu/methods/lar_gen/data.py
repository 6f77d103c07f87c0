"""What LAR-Gen learns from: quadruples of a picture, an object's mask, the object, and its text."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from insitu.backbones.zoom import Window, box_mask, require_box
from insitu.edits import article
from insitu.methods import VALIDATION, Example, Image, Placement, Request
from insitu.methods.lar_gen.networks import Settings
from insitu.randomness import rng_for
from insitu.records import Record
from insitu.records.engines import Quadruple

SETS: Mapping[str, type[Record]] = {"quadruples": Quadruple}
LEARN = "quadruples"
ENCODED = ("captions", "mask_shape", "subject_size", "context", "clip")
POOLS = {"train": LEARN, "validation": VALIDATION}


def examples(
    rows: Mapping[str, Iterable[Any]], settings: Settings, *, size: int, seed: int
) -> Iterator[Example]:
    """Each object of the splits `train` and `validation`, in the square around it."""
    for row in rows["quadruples"]:
        if row.split not in POOLS:
            continue
        image, instance = row.image.array(), mask_of(row)
        window = Window.around(row.box.xyxy01, image, context=settings.context)
        yield Example(
            id=row.id,
            image=window.cut(image, size),
            mask=window.cut(_mask(row, image, instance, settings, seed), size),
            prompt=_text(row, settings),
            placements=(
                Placement(box_xyxy01=row.box.xyxy01, reference=on_white(image, instance, row)),
            ),
            pool=POOLS[row.split],
        )


def requests(
    rows: Mapping[str, Iterable[Any]], settings: Settings, *, size: int, seed: int, split: str
) -> Iterator[Request]:
    """Each place of a split, to be filled with the object of the row that comes next in it.

    So what is asked for was never seen there, and what has to be painted away is another thing.
    Prompts are of the object alone: where it learned from tags its tag, else its caption.
    """
    own = [row for row in rows["quadruples"] if row.split == split]
    for number, row in enumerate(own):
        other = own[(number + 1) % len(own)]
        subject = on_white(other.image.array(), mask_of(other), other)
        yield Request(
            image=row.image.array(),
            placements=(Placement(box_xyxy01=fitted(row.box.xyxy01, subject), reference=subject),),
            prompt=article(other.tag) if settings.captions == "tag" else other.text,
            seed=seed + number,
        )


def mask_of(row: Quadruple) -> Image:
    """The object's mask [H, W], 255 = the object."""
    return np.ascontiguousarray(row.mask.array()[..., 0])


def on_white(image_HWC: Image, mask_HW: Image, row: Quadruple) -> Image:
    """The object cut out by its box, on white."""
    left, top, right, bottom = require_box(row.box.xyxy01, image_HWC)
    cut = np.where(mask_HW[..., None] > 127, image_HWC, np.uint8(255))
    return np.ascontiguousarray(cut[top:bottom, left:right])


def fitted(
    box_xyxy01: tuple[float, float, float, float], subject_HWC: Image
) -> tuple[float, float, float, float]:
    """The largest box of the subject's proportions within a box, with the same centre."""
    x0, y0, x1, y1 = box_xyxy01
    height, width = subject_HWC.shape[:2]
    scale = min((x1 - x0) / width, (y1 - y0) / height)
    dx, dy = scale * width / 2, scale * height / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - dx, y - dy, x + dx, y + dy


def _text(row: Quadruple, settings: Settings) -> str:
    if settings.captions == "tag":
        return article(row.tag)
    return row.text if settings.captions == "regional" else row.global_text


def _mask(row: Quadruple, image: Image, instance: Image, settings: Settings, seed: int) -> Image:
    """The object's own mask or its box; mixed = each by half of all rows."""
    boxed = settings.mask_shape == "box"
    if settings.mask_shape == "mixed":
        boxed = bool(rng_for("mask", seed, row.id).random() < 0.5)
    return box_mask(row.box.xyxy01, image) if boxed else instance
