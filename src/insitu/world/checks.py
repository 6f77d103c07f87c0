"""Refuses what the world cannot draw, where it is said and not where a pixel would go wrong."""

import math
from collections.abc import Collection

from insitu.errors import UserError
from insitu.world.geometry import Frame

MAX_THINGS = 4


def require_known(what: str, given: object, names: Collection[str]) -> None:
    """Raise UserError unless `given` is one of `names`."""
    if given not in names:
        raise UserError(
            f"The {what} {given!r} was given.",
            f"The world knows no such {what}.",
            f"Use one of: {', '.join(names)}.",
        )


def require_count(count: int) -> None:
    """Raise UserError unless a scene can hold `count` things."""
    if not 1 <= count <= MAX_THINGS:
        raise UserError(
            f"A scene of {count} things was asked for.",
            f"A scene has places for 1 to {MAX_THINGS}.",
            f"Give between 1 and {MAX_THINGS} things.",
        )


def require_size(size: int) -> None:
    """Raise UserError unless a picture can be `size` pixels wide."""
    if size <= 0 or size % 8:
        raise UserError(
            f"A picture of {size} x {size} pixels was asked for.",
            "Models see pictures in cells, so a side is a positive multiple of 8.",
            f"Ask for {max(8, round(size / 8) * 8)} pixels.",
        )


def require_frame(frame: Frame) -> None:
    """Raise UserError unless a frame has a place and an extent."""
    if not (all(map(math.isfinite, (frame.cx, frame.cy, frame.tilt))) and 0 < frame.size < 100):
        raise UserError(
            f"{frame} was given.",
            "Its numbers must be finite and its size, a share of the image, above 0 and below 100.",
            "Give the centre and half the side as shares of the image, e.g. Frame(0.5, 0.5, 0.4).",
        )
