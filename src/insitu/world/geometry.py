"""Outlines as arrays [N, 2] of (x, y): x to the right, y down, unit by the caller's frame."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Outline = NDArray[np.float64]


def polygon(*points: tuple[float, float]) -> Outline:
    return np.array(points, dtype=np.float64)


def box(x0: float, y0: float, x1: float, y1: float) -> Outline:
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def trapezoid(y0: float, half0: float, y1: float, half1: float, x: float = 0.0) -> Outline:
    """Symmetric about `x`: half width `half0` at `y0`, `half1` at `y1`."""
    return polygon((x - half0, y0), (x + half0, y0), (x + half1, y1), (x - half1, y1))


def ellipse(
    cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0
) -> Outline:
    """Points on an ellipse from `start` to `stop` degrees (0 = right, 90 = down)."""
    count = max(6, round(24 * abs(stop - start) / 360))
    angle = np.linspace(np.deg2rad(start), np.deg2rad(stop), count, endpoint=stop - start < 360)
    return np.stack([cx + rx * np.cos(angle), cy + ry * np.sin(angle)], axis=1)


def superellipse(cx: float, cy: float, rx: float, ry: float, power: float) -> Outline:
    """|x/rx|^power + |y/ry|^power = 1; power 2 is an ellipse, larger is boxier."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    x = np.sign(cos) * np.abs(cos) ** (2 / power)
    y = np.sign(sin) * np.abs(sin) ** (2 / power)
    return np.stack([cx + rx * x, cy + ry * y], axis=1)


def arc(
    cx: float, cy: float, rx: float, ry: float, width: float, start: float, stop: float
) -> Outline:
    """A bent band: the outline between two elliptic arcs `width` apart."""
    outer = ellipse(cx, cy, rx + width / 2, ry + width / 2, start, stop)
    inner = ellipse(cx, cy, rx - width / 2, ry - width / 2, start, stop)
    return np.concatenate([outer, inner[::-1]])


def band(x0: float, y0: float, x1: float, y1: float, width: float) -> Outline:
    """A straight stroke of a given width."""
    dx, dy = x1 - x0, y1 - y0
    length = max(float(np.hypot(dx, dy)), 1e-9)
    nx, ny = -dy / length * width / 2, dx / length * width / 2
    return polygon((x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny))


def star(cx: float, cy: float, radius: float, points: int = 5, inner: float = 0.45) -> Outline:
    angle = np.arange(2 * points) * np.pi / points - np.pi / 2
    r = np.where(np.arange(2 * points) % 2 == 0, radius, radius * inner)
    return np.stack([cx + r * np.cos(angle), cy + r * np.sin(angle)], axis=1)


def centroid(outlines: list[Outline]) -> NDArray[np.float64]:
    """Centre of mass [2] of filled outlines, each by its own area (shoelace formula)."""
    total, moment = 0.0, np.zeros(2)
    for outline in outlines:
        after = np.roll(outline, -1, axis=0)
        cross = outline[:, 0] * after[:, 1] - after[:, 0] * outline[:, 1]
        area = cross.sum() / 2
        total += abs(area)
        moment += np.sign(area) * (cross[:, None] * (outline + after)).sum(0) / 6
    return moment / total


@dataclass(frozen=True)
class Frame:
    """Where a thing stands: its own unit square [-1, 1]^2 -> image coordinates in [0, 1].

    `size` is half the square's side as a share of the image; `tilt` in degrees, clockwise;
    `flip` mirrors left and right.
    """

    cx: float
    cy: float
    size: float
    tilt: float = 0.0
    flip: bool = False

    def matrix(self) -> NDArray[np.float64]:
        """Linear part [2, 2] of the map; the translation is (cx, cy)."""
        cos, sin = np.cos(np.deg2rad(self.tilt)), np.sin(np.deg2rad(self.tilt))
        mirror = -1.0 if self.flip else 1.0
        return self.size * np.array([[cos * mirror, -sin], [sin * mirror, cos]])

    def place(self, outline: Outline) -> Outline:
        return outline @ self.matrix().T + (self.cx, self.cy)
