"""Put a page on disk: an HTML file and PNG files beside it."""

from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image as Pil

from insitu.evaluation.gallery.overlays import PALETTE
from insitu.evaluation.gallery.page import Group, Page, Tile

PICTURES = "pictures"


def write(page: Page, folder: Path) -> None:
    """Write `index.html` and `pictures/*.png` into a folder; it opens from disk, offline."""
    addresses = _write_pictures(page, folder)
    environment = Environment(
        loader=PackageLoader("insitu.evaluation.gallery"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    html = environment.get_template("page.html.jinja").render(
        page=page, palette=PALETTE, number=_number, address=lambda tile: addresses[id(tile)]
    )
    (folder / "index.html").write_text(html, encoding="utf-8")


def _write_pictures(page: Page, folder: Path) -> dict[int, str]:
    """Save every tile's picture; return its address by the tile's identity."""
    (folder / PICTURES).mkdir()
    groups = [("opening", page.banner)]
    groups += [(section.key, group) for section in page.sections for group in section.groups]
    addresses: dict[int, str] = {}
    counts: dict[str, int] = {}
    for key, group in groups:
        for tile in _tiles(group):
            counts[key] = counts.get(key, 0) + 1
            address = f"{PICTURES}/{key}-{counts[key]:03d}.png"
            Pil.fromarray(tile.image).save(folder / address)
            addresses[id(tile)] = address
    return addresses


def _tiles(group: Group) -> Iterator[Tile]:
    for unit in group.units:
        yield from unit.tiles


def _number(value: float) -> str:
    """Shares with two decimals, decibels with one."""
    return f"{value:.2f}" if abs(value) <= 1 else f"{value:.1f}"
