"""Requests as files, for processes that paint them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow

from insitu.files import replace_text
from insitu.methods import Image, Placement, Request

LIST = "requests.json"
PICTURES = ("mask", "reference")
POINTS = ("landmarks_xy01", "reference_landmarks_xy01")
"""What a placement may hold that is written as a picture, and that is a list of points."""


def save(requests: Sequence[Request], folder: Path) -> None:
    """Write requests, their pictures as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for index, request in enumerate(requests):
        Pillow.fromarray(request.image).save(folder / f"{index}.png")
        if request.style is not None:
            Pillow.fromarray(request.style).save(folder / f"{index}-style.png")
        placements = []
        for number, placement in enumerate(request.placements):
            for name in PICTURES:
                picture = getattr(placement, name)
                if picture is not None:
                    Pillow.fromarray(picture).save(folder / f"{index}-{number}-{name}.png")
            placements.append({k: v for k, v in vars(placement).items() if k not in PICTURES})
        plain = {k: v for k, v in vars(request).items() if k not in ("image", "style")}
        told.append({**plain, "placements": placements})
    replace_text(folder / LIST, json.dumps(told, indent=2) + "\n")


def load(folder: Path) -> list[Request]:
    """Read them back."""
    found = []
    for index, told in enumerate(json.loads((folder / LIST).read_text())):
        placements = tuple(
            _placement(each, folder, f"{index}-{number}")
            for number, each in enumerate(told["placements"])
        )
        image = np.asarray(Pillow.open(folder / f"{index}.png"))
        path = folder / f"{index}-style.png"
        style = np.asarray(Pillow.open(path)) if path.exists() else None
        found.append(Request(**{**told, "image": image, "style": style, "placements": placements}))
    return found


def _placement(told: dict[str, Any], folder: Path, stem: str) -> Placement:
    points = {
        name: tuple(map(tuple, told[name])) if told[name] is not None else None for name in POINTS
    }
    pictures: dict[str, Image] = {
        name: np.asarray(Pillow.open(path))
        for name in PICTURES
        if (path := folder / f"{stem}-{name}.png").exists()
    }
    return Placement(**{**told, "box_xyxy01": tuple(told["box_xyxy01"]), **points, **pictures})
