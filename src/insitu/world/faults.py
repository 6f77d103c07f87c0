"""Faults on demand, with known rates: what a generator gets wrong, with the truth kept."""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np

from insitu.errors import UserError
from insitu.world.checks import require_known
from insitu.world.faces import Person, sample_person
from insitu.world.paint import Image
from insitu.world.randomness import pick
from insitu.world.scenes import Scene, Thing
from insitu.world.subjects import sample_subject

FAULTS: Final = ("missing", "wrong identity", "swapped attributes", "blur", "clutter", "bad crop")
DEGRADATIONS: Final = ("blur", "noise", "blocky", "washed out", "clutter", "low resolution")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What went wrong; `thing` = index among the *intended* things, None = the whole picture."""

    kind: str
    thing: int | None = None


def inject(
    scene: Scene, rng: np.random.Generator, rates: dict[str, float]
) -> tuple[Scene, tuple[Fault, ...]]:
    """Each kind of fault happens with its own rate, independently.

    A thing suffers one kind of fault at most, so that each can be told from the others. Where none
    is left for a kind, or a scene has only one thing to lose or to swap with, the draw leaves the
    scene as it is and reports no fault.

    Raises UserError for an unknown kind or a rate outside [0, 1].
    """
    for kind, rate in rates.items():
        require_known("fault", kind, FAULTS)
        if not 0 <= rate <= 1:
            raise UserError(
                f"The rate {rate} was given for the fault {kind!r}.",
                "A rate is the share of scenes that the fault happens to.",
                "Give a number between 0 and 1.",
            )
    faults: list[Fault] = []
    # Missing comes last, so that the other faults' indices are those of the intended things.
    for kind in sorted(rates, key=lambda name: (name == "missing", FAULTS.index(name))):
        if rng.random() < rates[kind]:
            hit = {fault.thing for fault in faults}
            sound = [i for i in range(len(scene.things)) if i not in hit]
            scene, found = _INJECTORS[kind](scene, rng, sound)
            faults += found
    return scene, tuple(faults)


Found = tuple[Scene, list[Fault]]


def _missing(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    if len(scene.things) < 2 or not sound:
        return scene, []
    gone = pick(rng, sound)
    keep = [i for i in range(len(scene.things)) if i != gone]
    kept = replace(
        scene,
        things=tuple(scene.things[i] for i in keep),
        frames=tuple(scene.frames[i] for i in keep),
    )
    return kept, [Fault(kind="missing", thing=gone)]


def _wrong_identity(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    """Another identity of the same category stands in: only a reference tells."""
    if not sound:
        return scene, []
    index = pick(rng, sound)
    thing = scene.things[index]
    other: Thing = (
        sample_person(rng)
        if isinstance(thing, Person)
        else sample_subject(rng, category=thing.category)
    )
    return _with(scene, {index: other}), [Fault(kind="wrong identity", thing=index)]


def _swapped(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    """Two things trade colour and pattern, people garments; a fault of each of the two."""
    pairs = [
        (i, j) for i in sound for j in sound
        if i > j and type(scene.things[i]) is type(scene.things[j])
    ]  # fmt: skip
    if not pairs:
        return scene, []
    i, j = pick(rng, pairs)
    one, two = scene.things[i], scene.things[j]
    if isinstance(one, Person) and isinstance(two, Person):
        swapped: dict[int, Thing] = {
            i: replace(one, garment=two.garment), j: replace(two, garment=one.garment)
        }  # fmt: skip
    else:
        assert not isinstance(one, Person) and not isinstance(two, Person)
        swapped = {
            i: replace(one, base=two.base, second=two.second, pattern=two.pattern),
            j: replace(two, base=one.base, second=one.second, pattern=one.pattern),
        }
    return _with(scene, swapped), [Fault(kind="swapped attributes", thing=k) for k in (j, i)]


def _blur(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    return replace(scene, blur=float(rng.uniform(0.025, 0.045))), [Fault(kind="blur")]


def _clutter(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    return replace(scene, clutter=int(rng.integers(5, 10))), [Fault(kind="clutter")]


def _bad_crop(scene: Scene, rng: np.random.Generator, sound: list[int]) -> Found:
    """The camera comes too close to one corner: things leave the picture."""
    zoom = float(rng.uniform(1.5, 1.9))
    x, y = (float(v) * (1 - 1 / zoom) for v in rng.integers(0, 2, 2))
    frames = tuple(
        replace(f, cx=(f.cx - x) * zoom, cy=(f.cy - y) * zoom, size=f.size * zoom)
        for f in scene.frames
    )
    return replace(scene, frames=frames), [Fault(kind="bad crop")]


_INJECTORS = {
    "missing": _missing, "wrong identity": _wrong_identity, "swapped attributes": _swapped,
    "blur": _blur, "clutter": _clutter, "bad crop": _bad_crop,
}  # fmt: skip


def _with(scene: Scene, things: dict[int, Thing]) -> Scene:
    return replace(
        scene, things=tuple(things.get(i, thing) for i, thing in enumerate(scene.things))
    )


def degrade(image: Image, kind: str, rng: np.random.Generator) -> Image:
    """Spoil a finished picture uint8 [H, W, 3]; `kind` is one of `DEGRADATIONS`.

    Raises UserError for an unknown kind and for a picture of another type or under 16 pixels.
    """
    require_known("degradation", kind, DEGRADATIONS)
    _require_picture(image)
    h, w = image.shape[:2]
    match kind:
        case "blur":
            sigma = float(rng.uniform(0.02, 0.045)) * w
            return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
        case "noise":
            spread = int(rng.integers(28, 60))
            noise = rng.integers(-spread, spread + 1, image.shape)
            return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)
        case "blocky":
            block = int(rng.choice([4, 6, 8])) * max(1, w // 64)
            small = cv2.resize(image, (w // block, h // block), interpolation=cv2.INTER_AREA)
            blocks = cv2.resize(small, (w, h), interpolation=cv2.INTER_NEAREST)
            return np.asarray(blocks, np.uint8)
        case "washed out":
            share = float(rng.uniform(0.22, 0.4))
            table = np.rint(150 + (np.arange(256) - 128) * share).astype(np.uint8)
            return np.asarray(cv2.LUT(image, table), np.uint8)
        case "clutter":
            spoilt = image.copy()
            for _ in range(int(rng.integers(6, 12))):
                x, y = (int(v) for v in rng.integers(0, [w, h]))
                half = (int(rng.integers(w // 24, w // 7)), int(rng.integers(h // 24, h // 7)))
                r, g, b = (int(v) for v in rng.integers(0, 256, 3))
                low, high = (x - half[0], y - half[1]), (x + half[0], y + half[1])
                cv2.rectangle(spoilt, low, high, (r, g, b), -1)
            return spoilt
        case _:  # low resolution
            factor = float(rng.uniform(4, 7))
            fewer = (round(w / factor), round(h / factor))
            small = cv2.resize(image, fewer, interpolation=cv2.INTER_AREA)
            return np.asarray(cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR), np.uint8)


def _require_picture(image: Image) -> None:
    """Raise UserError unless `image` is an RGB picture that all degradations can spoil."""
    is_rgb = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    if not is_rgb or min(image.shape[:2]) < 16:
        raise UserError(
            f"The image is {image.dtype} with shape {image.shape}.",
            "Only uint8 RGB pictures of shape [height, width, 3], 16 pixels or more, are spoilt.",
            "Convert it to RGB with values 0..255.",
        )
