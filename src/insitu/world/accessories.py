"""Hats, scarves and bows, worn by subjects and people alike."""

from insitu.world.geometry import Frame, Outline, band, ellipse, polygon, trapezoid
from insitu.world.paint import Canvas, darker
from insitu.world.shapes import Shape
from insitu.world.subjects import Accessory


def wear(canvas: Canvas, frame: Frame, shape: Shape, accessory: Accessory) -> None:
    """Paint an accessory at the place that the shape has for it."""
    colour = accessory.shade.rgb
    for outline, factor in _OUTLINES[accessory.kind](shape):
        placed = frame.place(outline)
        canvas.fill(placed, darker(colour, factor), part=accessory.kind)
        canvas.line(placed, darker(colour, 0.4), 0.035 * frame.size, part=accessory.kind)


def _hat(shape: Shape) -> list[tuple[Outline, float]]:
    x, y, half = shape.top
    half = max(half, 0.24)
    return [
        (trapezoid(y - 0.42, half * 0.62, y - 0.02, half * 0.72, x), 1.0),
        (trapezoid(y - 0.16, half * 0.7, y - 0.02, half * 0.72, x), 0.6),
        (ellipse(x, y, half * 1.2, 0.1), 1.0),
    ]


def _scarf(shape: Shape) -> list[tuple[Outline, float]]:
    x, y, half = shape.neck
    return [
        (band(x + half * 0.4, y, x + half * 0.62, y + 0.48, 0.22), 0.82),
        (ellipse(x, y, half * 1.08, 0.14), 1.0),
    ]


def _bow(shape: Shape) -> list[tuple[Outline, float]]:
    x, y, _ = shape.neck
    return [
        (polygon((x, y), (x - 0.36, y - 0.2), (x - 0.36, y + 0.2)), 1.0),
        (polygon((x, y), (x + 0.36, y - 0.2), (x + 0.36, y + 0.2)), 1.0),
        (ellipse(x, y, 0.1, 0.1), 0.7),
    ]


_OUTLINES = {"hat": _hat, "scarf": _scarf, "bow": _bow}
