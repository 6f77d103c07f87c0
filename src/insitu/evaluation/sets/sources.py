"""Subjects and scenes: drawn from the world, or read from folders as data sets come.

*Subjects*, as in DreamBooth's set: a folder for each, named after it, its photos in it; beside the
folders `classes.txt` has a line `name,class word` for each that is not called by its class.
*Scenes*, as cut out of COCO: photos, and beside each `photo.png` a `photo.mask.png` (white = where
something goes) and, if you like, a `photo.txt` with the place in words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from insitu import world
from insitu.errors import UserError
from insitu.evaluation.metrics import Image, Photo
from insitu.evaluation.placement import Place, places
from insitu.evaluation.sets.description import WORLD, Source
from insitu.randomness import rng_for
from insitu.requests import Box

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A subject: its photos, the word for what it is, and its colour, where it is known."""

    photos: tuple[Photo, ...]
    class_word: str
    colour: str = ""

    @property
    def alone(self) -> Image:
        """Cut out of its first photo, on white where its mask is known."""
        photo = self.photos[0]
        height, width = photo.image.shape[:2]
        x0, y0, x1, y1 = photo.box_xyxy01
        image = photo.image
        if photo.mask_HW is not None:
            image = np.where(photo.mask_HW[..., None], image, np.uint8(255))
        rows, columns = slice(int(y0 * height), -int(-y1 * height // 1)), slice(
            int(x0 * width), -int(-x1 * width // 1)
        )  # fmt: skip
        return np.ascontiguousarray(image[rows, columns])


def subjects(source: Source, *, size: int, seed: int) -> list[Subject]:
    """As many as are asked for.

    Raises:
        UserError: the folder has too few, or one without photos.
    """
    if source.path != WORLD:
        return _of_folders(Path(source.path), source.count)
    found = []
    for number in range(source.count):
        rng = rng_for("benchmark", "subject", seed, number)
        thing = world.sample_subject(rng)
        truth = [world.portrait(thing, rng, size) for _ in range(2)]
        found.append(
            Subject(
                photos=tuple(
                    Photo(
                        image=t.image, box_xyxy01=t.things[0].box_xyxy01, mask_HW=t.things[0].mask
                    )
                    for t in truth
                ),
                class_word=thing.category, colour=thing.colour,
            )
        )  # fmt: skip
    return found


def scenes(source: Source, *, size: int, seed: int) -> list[Place]:
    """Photos with room for one thing.

    Raises:
        UserError: the folder has too few, or a photo without a mask.
    """
    if source.path == WORLD:
        return places(source.count, size=size, seed=seed)
    folder = Path(source.path)
    found = []
    for path in pictures(folder):
        if path.stem.endswith(".mask"):
            continue
        mask = path.with_name(f"{path.stem}.mask.png")
        if not mask.exists():
            raise UserError(
                f"The scene {path} was given.",
                "Nothing says where something goes in it.",
                f"Put {mask.name} beside it, white where something goes, or take it out.",
            )
        told = path.with_suffix(".txt")
        text = told.read_text(encoding="utf-8").strip() if told.exists() else ""
        found.append(Place(image=read(path), freed_xyxy01=_box(mask), text=text))
    return _enough(found, source.count, folder, "scenes")


def two_places(number: int, *, size: int, seed: int) -> tuple[Image, tuple[Box, Box], str]:
    """A photo of the world with room for two things, and what the place is called."""
    rng = rng_for("benchmark", "two places", seed, number)
    scene = world.sample_scene(rng, count=3, people=False, style="photo")
    truth = world.render(scene, size).things
    # Back to front: the last two hide the other, and give way.
    rest = world.render(replace(scene, things=scene.things[:1], frames=scene.frames[:1]), size)
    first, second = sorted((thing.box_xyxy01 for thing in truth[1:]), key=lambda box: box[0])
    return rest.image, (first, second), world.place(scene)


def _of_folders(folder: Path, count: int) -> list[Subject]:
    names = folder / "classes.txt"
    words = (
        dict(line.split(",", 1) for line in names.read_text("utf-8").splitlines() if "," in line)
        if names.exists()
        else {}
    )
    found = []
    for path in sorted(p for p in folder.glob("*") if p.is_dir()):
        photos = tuple(Photo(image=read(picture)) for picture in pictures(path))
        if not photos:
            raise UserError(
                f"The subject {path} was given.",
                f"It holds no picture ({', '.join(ENDINGS)}).",
                "Put its photos there, or take the folder out.",
            )
        word = words.get(path.name, path.name.rstrip("0123456789").replace("_", " ")).strip()
        found.append(Subject(photos=photos, class_word=word))
    return _enough(found, count, folder, "subjects")


def _enough(found: list, count: int, folder: Path, what: str) -> list:  # type: ignore[type-arg]
    if len(found) < count:
        raise UserError(
            f"{count} {what} were to be taken of {folder}.",
            f"It holds {len(found)}.",
            "Lower the count in the benchmark's description, or give the right folder.",
        )
    return found[:count]


def pictures(folder: Path) -> Sequence[Path]:
    return sorted(p for p in folder.glob("*") if p.suffix.lower() in ENDINGS)


def read(path: Path) -> Image:
    return np.asarray(Pillow.open(path).convert("RGB"))


def _box(path: Path) -> Box:
    mask = np.asarray(Pillow.open(path).convert("L")) > 127
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise UserError(
            f"The mask {path} was given.", "Nothing in it is white.", "Draw the place in white."
        )
    height, width = mask.shape
    return (
        float(columns[0] / width), float(rows[0] / height),
        float((columns[-1] + 1) / width), float((rows[-1] + 1) / height),
    )  # fmt: skip
