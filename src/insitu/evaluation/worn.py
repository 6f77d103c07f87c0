"""Garments on people: a photo of a person, and a picture of a garment that is to be worn.

Both are drawn from the world, whose truth says where the garment of the photo is.
"""

import numpy as np

from insitu import world
from insitu.randomness import rng_for
from insitu.requests import Placement, Request

GARMENT = "shirt"
PART = f"{GARMENT} "
"""How the names of a person's parts begin that belong to it."""
LEAST = 0.08
"""Of the photo, share of the garment: smaller ones leave nothing to see."""


def worn(number: int, *, size: int, seed: int) -> Request:
    """The request of this number: one person, whose garment is to be another; `size` in pixels."""
    rng = rng_for("worn", seed, number)
    garment = world.sample_subject(rng, category=GARMENT)
    photo = world.portrait(garment, rng, size)
    truth = photo.things[0]
    left, top, right, bottom = (round(share * size) for share in truth.box_xyxy01)
    alone = np.where(truth.mask[..., None], photo.image, np.uint8(255))[top:bottom, left:right]
    while True:
        scene = world.sample_scene(rng, style="photo", people=True, count=1)
        person = world.render(scene, size, parts=True)
        mask = _garment(person.things[0])
        if mask.mean() >= LEAST:
            break
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return Request(
        image=person.image, prompt=f"a {GARMENT}", seed=seed + number,
        placements=(
            Placement(
                box_xyxy01=tuple(float(edge / size) for edge in box),  # type: ignore[arg-type]
                mask=np.where(mask, np.uint8(255), np.uint8(0)),
                reference=np.ascontiguousarray(alone),
            ),
        ),
    )  # fmt: skip


def _garment(person: world.RenderedThing) -> np.ndarray:
    empty = np.zeros_like(person.mask)
    parts = [mask for name, mask in person.parts.items() if name.startswith(PART)]
    return np.logical_or.reduce([empty, *parts])
