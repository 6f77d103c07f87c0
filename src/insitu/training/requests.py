"""Requests as files, for processes that paint them."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from insitu.files import replace_text
from insitu.methods import Request

LIST = "requests.json"


def save(requests: Sequence[Request], folder: Path) -> None:
    """Write requests, their photos as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    told = []
    for index, request in enumerate(requests):
        Pillow.fromarray(request.image).save(folder / f"{index}.png")
        told.append({k: v for k, v in asdict(request).items() if k != "image"})
    replace_text(folder / LIST, json.dumps(told, indent=2) + "\n")


def load(folder: Path) -> list[Request]:
    """Read them back."""
    found = []
    for index, told in enumerate(json.loads((folder / LIST).read_text())):
        image = np.asarray(Pillow.open(folder / f"{index}.png").convert("RGB"))
        told["box_xyxy01"] = tuple(told["box_xyxy01"])
        found.append(Request(image=image, **told))
    return found
