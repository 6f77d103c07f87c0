"""What a step reported, as Dagster's page shows it: pictures to look at, pages to open."""

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from PIL import Image

WIDEST = 800
"""Pixels of a picture in the metadata; it is stored with every event."""


def shown(facts: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Metadata: a path of a PNG becomes the picture, another path a path, the rest stays."""
    return {name: _shown(value, root) for name, value in facts.items()}


def _shown(value: Any, root: Path) -> Any:
    path = root / value if isinstance(value, str) and "/" in value else None
    if path is None or not path.is_file():
        return value
    return picture(path) if path.suffix == ".png" else dg.MetadataValue.path(path)


def picture(path: Path) -> dg.MarkdownMetadataValue:
    """A picture inside the metadata itself, so that it shows wherever the page is opened."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/jpeg;base64,{data})")
