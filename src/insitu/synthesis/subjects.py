"""Subjects: drawn from the world, or a user's folders of photos with a class word."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from insitu import world
from insitu.errors import UserError
from insitu.records import Box, Image
from insitu.records.subjects import SubjectPhoto

DESCRIPTION = "subject.yaml"
SUFFIXES = (".jpg", ".jpeg", ".png")
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
MIN_SIDE = 32
"""A photo with fewer pixels than this shows too little of an identity."""
MARGIN = 0.05
MIN_SHARE = 0.1
"""Of a photo's side: what is found smaller than this is not what the photo was taken of."""

Pixels = NDArray[np.uint8]
Find = Callable[[Pixels, str], tuple[float, float, float, float] | None]
"""Where in a picture (uint8 [H, W, 3]) is the thing that the text names? None: nowhere."""
Describe = Callable[[list[Pixels], str], str]
"""What words tell of a subject, from its crops and its class word."""


class Description(BaseModel):
    """A subject's `subject.yaml`.

    Attributes:
        class_word: what kind of thing it is; the key is `class`.
        description: the subject in words; by default what the tagger sees.
        boxes: by file name, where the subject is: x0, y0, x1, y1 in shares of width and height.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_word: str = Field(alias="class", pattern=r"^[a-z][a-z -]*$")
    description: str | None = Field(default=None, min_length=1)
    boxes: dict[str, tuple[float, float, float, float]] = {}


def drawn(index: int, *, photos: int, size: int, seed: int) -> Iterator[SubjectPhoto]:
    """Photos of the world's subject number `index`: views and light vary, the identity does not."""
    identity = world.sample_subject(world.rng_for("subject", seed, index), accessory=False)
    name = f"{identity.category}-{index}"
    for view in range(photos):
        rendering = world.portrait(identity, world.rng_for("photo", seed, index, view), size)
        x0, y0, x1, y1 = rendering.things[0].box_xyxy01
        yield SubjectPhoto(
            id=f"{name}/{view}",
            subject=name,
            class_word=identity.category,
            description=world.describe(identity),
            image=Image.from_array(rendering.image),
            box=Box(x0=x0, y0=y0, x1=x1, y1=y1),
            box_from="truth",
            source=f"world {world.WORLD_VERSION}, seed {seed}, subject {index}, view {view}",
        )


def folders(root: Path) -> list[Path]:
    """The subjects' folders in `root`, by name; hidden ones and plain files are passed over.

    Raises:
        UserError: a folder's name is not lower-case letters, digits and hyphens.
    """
    found = sorted(path for path in root.glob("[!.]*") if path.is_dir()) if root.is_dir() else []
    for path in found:
        if not NAME.fullmatch(path.name):
            raise UserError(
                f"The subject folder {path} was given.",
                "Its name becomes the name of a partition and of a registered model, which take"
                " lower-case letters, digits and hyphens only.",
                f"Rename it, for example to {_tame(path.name)}.",
            )
    return found


def own(folder: Path, *, find: Find, describe: Describe) -> list[SubjectPhoto]:
    """The photos of one of the user's folders, all of them checked before the first is used.

    Args:
        find: says where the subject is, for photos without a given box.
        describe: puts the subject into words, if `subject.yaml` does not.

    Raises:
        UserError: no or a wrong `subject.yaml`, no photos, a photo that cannot be read or is too
            small, a box outside of its photo or for a photo that is not there.
    """
    described = _read_description(folder)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(
            f"The subject folder {folder} was given.",
            f"It holds no photo ({', '.join(SUFFIXES)}).",
            "Put three to five photos of the subject into it, or remove the folder.",
        )
    strangers = sorted(described.boxes.keys() - {path.name for path in files})
    if strangers:
        raise UserError(
            f"{folder / DESCRIPTION} gives a box for {strangers[0]}.",
            "There is no such photo beside it.",
            "Correct the file name, or remove the box.",
        )
    pixels = [_read_photo(path) for path in files]
    query = world.article(described.class_word)
    boxes = [
        _place(path, image, described, lambda image: find(image, query))
        for path, image in zip(files, pixels, strict=True)
    ]
    words = described.description or describe(
        [_crop(image, box) for image, (box, _) in zip(pixels, boxes, strict=True)],
        described.class_word,
    )
    return [
        SubjectPhoto(
            id=f"{folder.name}/{path.stem}",
            subject=folder.name,
            class_word=described.class_word,
            description=words,
            image=Image.from_array(image),
            box=box,
            box_from=box_from,
            source=path.name,
        )
        for path, image, (box, box_from) in zip(files, pixels, boxes, strict=True)
    ]


def _read_description(folder: Path) -> Description:
    path = folder / DESCRIPTION
    try:
        content: Any = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        return Description.model_validate(content)
    except FileNotFoundError:
        given, why = f"The subject folder {folder} was given.", f"It has no {DESCRIPTION}."
    except (YAMLError, UnicodeDecodeError):
        given, why = f"{path} was given.", "It is not plain YAML in UTF-8."
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        given, why = f"{path} was given.", f"`{key}`: {first['msg']}."
    raise UserError(
        given, why, f"Write a line such as `class: mug` into {DESCRIPTION}: what the subject is."
    )


def _read_photo(path: Path) -> Pixels:
    try:
        with Pillow.open(io.BytesIO(path.read_bytes())) as picture:
            picture.load()
            # Phones store how they were held beside the pixels.
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        raise UserError(
            f"The photo {path} was given.",
            f"It cannot be read: {error}.",
            "Save it again as JPEG or PNG, or remove it.",
        ) from None
    if min(upright.size) < MIN_SIDE:
        raise UserError(
            f"The photo {path} of {upright.width} x {upright.height} pixels was given.",
            f"Under {MIN_SIDE} pixels a side there is too little of a subject to learn.",
            "Give a larger photo, or remove it.",
        )
    return np.asarray(upright, np.uint8)


def _place(
    path: Path,
    image: Pixels,
    described: Description,
    find: Callable[[Pixels], tuple[float, float, float, float] | None],
) -> tuple[Box, str]:
    given = described.boxes.get(path.name)
    if given is not None:
        x0, y0, x1, y1 = given
        try:
            return Box(x0=x0, y0=y0, x1=x1, y1=y1), "given"
        except UserError as error:
            raise UserError(
                f"{path.parent / DESCRIPTION} gives {path.name} the box {list(given)}.",
                error.why,
                error.todo,
            ) from None
    found = find(image)
    if found is not None and min(found[2] - found[0], found[3] - found[1]) >= MIN_SHARE:
        x0, y0, x1, y1 = found
        return Box(x0=x0, y0=y0, x1=x1, y1=y1), "detector"
    return Box(x0=MARGIN, y0=MARGIN, x1=1 - MARGIN, y1=1 - MARGIN), "photo"


def _crop(image: Pixels, box: Box) -> Pixels:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box.xyxy01
    rows = slice(int(y0 * height), max(int(np.ceil(y1 * height)), int(y0 * height) + 1))
    columns = slice(int(x0 * width), max(int(np.ceil(x1 * width)), int(x0 * width) + 1))
    return image[rows, columns]


def _tame(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "subject"
