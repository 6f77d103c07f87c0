"""What a page holds: sections of groups of units; a unit is one case, a tile one picture of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class DrawnBox:
    """A box over a picture; boxes, masks and lines of one `colour` number belong together."""

    box_xyxy01: Box
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, kw_only=True)
class DrawnPoint:
    """A point over a picture: a ring, or a filled dot."""

    point_xy01: Point
    colour: int = 0
    filled: bool = True


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture, RGB uint8 [H, W, 3], a word below it, and what is drawn over it."""

    image: Image
    label: str = ""
    alt: str = ""
    """What a reader who cannot see the picture is told; its label and unit's text by default."""
    right: bool | None = None
    boxes: tuple[DrawnBox, ...] = ()
    points: tuple[DrawnPoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of findings below a unit: a heading, or a name with a value and a verdict."""

    text: str
    value: str = ""
    right: bool | None = None
    share: float | None = None
    """Length of a bar, 0..1."""
    colour: int | None = None
    heading: bool = False


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One case: its pictures in a row, its text, and what a judge says of it."""

    tiles: tuple[Tile, ...]
    text: str = ""
    note: str = ""
    right: bool | None = None
    lines: tuple[Line, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Units of one kind; `tile_px` is how wide a picture is shown, a `banner` has no gaps."""

    units: tuple[Unit, ...]
    title: str = ""
    text: str = ""
    tile_px: int = 128
    banner: bool = False

    @property
    def score(self) -> str:
        """ "3 of 8 right", or nothing where nothing is judged."""
        judged = [unit.right for unit in self.units if unit.right is not None]
        return f"{sum(judged)} of {len(judged)} right" if judged else ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The figure a card opens with, its 95% interval, and what it means in words."""

    meaning: str
    value: float
    low: float
    high: float
    count: int | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One checkpoint: its class, its size, and its headline or why there is none."""

    name: str
    model_class: str
    parameters: int
    weights_bytes: int | None
    headline: Headline | None
    no_headline: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One model's part of the page; `key` is its address on the page."""

    key: str
    title: str
    text: str
    groups: tuple[Group, ...]
    facts: tuple[Facts, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Page:
    """The whole page, opening with a banner."""

    title: str
    text: str
    banner: Group
    sections: tuple[Section, ...]
