"""The canvas: painter's algorithm at `SUPERSAMPLE` times the size, reduced by area at the end.

Deterministic on any machine: vertices are rounded to 1/16 of a sample before OpenCV's integer
scan conversion, and colours go through plain IEEE products and sums.
"""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.world.geometry import Frame, Outline, centroid, ellipse, polygon, star
from insitu.world.shapes import Shape
from insitu.world.subjects import Mark, Pattern
from insitu.world.vocabulary import RGB

SUPERSAMPLE: Final = 4
_SHIFT: Final = 4
Image = NDArray[np.uint8]


class Canvas:
    """A square picture in the making.

    `rgb` uint8 [n, n, 3], `owner` uint8 [n, n] (0 = background, k = k-th thing), `part` uint8
    [n, n] (index into `part_names`), with n = size x SUPERSAMPLE.
    """

    def __init__(self, size: int) -> None:
        self.size, self.samples = size, size * SUPERSAMPLE
        self.rgb: Image = np.zeros((self.samples, self.samples, 3), np.uint8)
        self.owner: Image = np.zeros((self.samples, self.samples), np.uint8)
        self.part: Image = np.zeros((self.samples, self.samples), np.uint8)
        self.part_names: list[str] = [""]
        self.owned: dict[int, int] = {}
        """Samples each owner covered when it was painted, before anything stood in front."""
        self._owner = 0

    def begin(self, owner: int) -> None:
        """Everything painted from here on belongs to thing number `owner` (1-based)."""
        self._owner = owner

    def end(self) -> None:
        self.owned[self._owner] = int(np.count_nonzero(self.owner == self._owner))

    def fill(self, outline: Outline, colour: RGB, *, part: str | None = None) -> None:
        """Fill an outline given in image coordinates [0, 1]; `part` also claims the pixels."""
        points = self.vertices(outline)
        cv2.fillPoly(self.rgb, points, colour, shift=_SHIFT)
        if part is not None:
            self._claim(points, part)

    def line(
        self, outline: Outline, colour: RGB, width: float, *, part: str, closed: bool = True
    ) -> None:
        """Stroke an outline, claiming the pixels; `width` as a share of the image."""
        points, thickness = self.vertices(outline), max(1, round(width * self.samples))
        for plane, value in (
            (self.rgb, colour), (self.owner, self._owner), (self.part, self._number(part))
        ):  # fmt: skip
            cv2.polylines(plane, points, closed, value, thickness, shift=_SHIFT)

    def texture(self, outline: Outline, paint: Image, origin: tuple[int, int], part: str) -> None:
        """Fill an outline with a painted patch whose top left sample is `origin` (x, y)."""
        points, (x, y), (h, w) = self.vertices(outline), origin, paint.shape[:2]
        mask = _stencil(points, origin, (h, w))
        cv2.copyTo(paint, mask, self.rgb[y : y + h, x : x + w])
        self._claim(points, part)

    def shade(self, outline: Outline, factor: float) -> None:
        """Darken (factor < 1) what lies under an outline: a cast shadow."""
        points = self.vertices(outline)
        (x, y), (right, bottom) = self.bounds(outline)
        if right <= x or bottom <= y:
            return
        patch = self.rgb[y:bottom, x:right]
        mask = _stencil(points, (x, y), patch.shape[:2])
        table = np.rint(np.arange(256) * factor).astype(np.uint8)
        cv2.copyTo(cv2.LUT(patch, table), mask, patch)

    def bounds(self, outline: Outline) -> tuple[tuple[int, int], tuple[int, int]]:
        """Sample rectangle (x0, y0), (x1, y1) around an outline, clipped to the canvas."""
        low = np.floor(outline.min(0) * self.samples).astype(int) - 1
        high = np.ceil(outline.max(0) * self.samples).astype(int) + 2
        low, high = np.clip(low, 0, self.samples), np.clip(high, 0, self.samples)
        return (int(low[0]), int(low[1])), (int(high[0]), int(high[1]))

    def reduced(self) -> Image:
        """The picture uint8 [size, size, 3]: each pixel the mean of its samples."""
        small = cv2.resize(self.rgb, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return np.asarray(small, np.uint8)

    def vertices(self, outline: Outline) -> list[NDArray[np.int32]]:
        # Half a sample less, since OpenCV's integer coordinates are sample centres.
        fixed = np.rint((outline * self.samples - 0.5) * (1 << _SHIFT))
        return [fixed.astype(np.int32)]

    def _claim(self, points: list[NDArray[np.int32]], part: str) -> None:
        cv2.fillPoly(self.owner, points, self._owner, shift=_SHIFT)
        cv2.fillPoly(self.part, points, self._number(part), shift=_SHIFT)

    def _number(self, part: str) -> int:
        if part not in self.part_names:
            self.part_names.append(part)
        return self.part_names.index(part)


def _stencil(
    points: list[NDArray[np.int32]], origin: tuple[int, int], shape: tuple[int, ...]
) -> Image:
    """255 inside the outline, on a patch whose top left sample is `origin` (x, y)."""
    mask = np.zeros(shape, np.uint8)
    # Not fillPoly's own `offset`: it ignores `shift`.
    moved = [p - (np.array(origin, np.int32) << _SHIFT) for p in points]
    cv2.fillPoly(mask, moved, 255, shift=_SHIFT)
    return mask


def paint_body(
    canvas: Canvas,
    frame: Frame,
    shape: Shape,
    *,
    base: RGB,
    second: RGB,
    pattern: Pattern,
    material: str,
    light: tuple[float, float],
    marks: tuple[Mark, ...] = (),
    scope: str = "",
) -> None:
    """Paint a shape's parts back to front with pattern, material, marks and light.

    `light` = direction the light comes from, in image axes, its length the strength (0..0.4).
    `scope` goes before part names ("shirt " of a person's garment).
    """
    placed = [(part, frame.place(part.outline)) for part in shape.parts]
    low, high = canvas.bounds(np.concatenate([outline for _, outline in placed]))
    if high[0] <= low[0] or high[1] <= low[1]:
        return
    u, v = local_grid(canvas, frame, low, high)
    bodies = [part.outline for part in shape.parts if part.paint == "body"]
    where = pattern_mask(pattern, u, v, bodies)
    colour = np.take(np.array([base, second], np.float32).T, where.view(np.uint8), axis=1)
    luminance = material_luminance(material, u, v)
    texture = _lit(colour, luminance, light, frame, u, v)
    edge = darker(base, 0.42)
    solids = {"second": second, "dark": darker(base, 0.5)}
    for part, outline in placed:
        if part.paint == "body":
            canvas.texture(outline, texture, low, scope + part.name)
        else:
            solid = part.paint if isinstance(part.paint, tuple) else solids[part.paint]
            canvas.fill(outline, solid, part=scope + part.name)
        canvas.line(outline, edge, 0.045 * frame.size, part=scope + part.name)
    x, y, rx, ry = shape.marks
    for mark in marks:
        canvas.fill(frame.place(mark_outline(mark, x + mark.x * rx, y + mark.y * ry)), mark.colour)


def local_grid(
    canvas: Canvas, frame: Frame, low: tuple[int, int], high: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(u, v) in the thing's unit square at every sample of a rectangle."""
    inverse = np.linalg.inv(frame.matrix())
    x = ((np.arange(low[0], high[0]) + 0.5) / canvas.samples - frame.cx).astype(np.float32)
    y = ((np.arange(low[1], high[1]) + 0.5) / canvas.samples - frame.cy).astype(np.float32)
    m = np.rint(inverse * 4096).astype(np.float32) / np.float32(4096)
    return (
        (m[0, 0] * x)[None, :] + (m[0, 1] * y)[:, None],
        (m[1, 0] * x)[None, :] + (m[1, 1] * y)[:, None],
    )


def pattern_mask(
    pattern: Pattern, u: NDArray[np.float32], v: NDArray[np.float32], bodies: list[Outline]
) -> NDArray[np.bool_]:
    """Where the second colour shows: about a third of the area, as the base names the thing.

    `bodies` are the outlines that carry it; two tones meet between their centroid and their end.
    """
    cos, sin = np.cos(np.deg2rad(pattern.angle)), np.sin(np.deg2rad(pattern.angle))
    cos, sin = np.float32(round(float(cos), 4)), np.float32(round(float(sin), 4))
    k, phase = np.float32(pattern.scale / 2), np.float32(pattern.phase)
    p, q = (cos * u + sin * v) * k + phase, (cos * v - sin * u) * k + phase
    match pattern.kind:
        case "striped":
            return (p - np.floor(p)) < 0.33
        case "dotted":
            p, q = p * np.float32(1.3), q * np.float32(1.3)
            return (p - np.floor(p) - 0.5) ** 2 + (q - np.floor(q) - 0.5) ** 2 < 0.085
        case "checked":
            p, q = p * np.float32(1.5), q * np.float32(1.5)
            return (p - np.floor(p) < 0.58) & (q - np.floor(q) < 0.58)
        case "zigzag":
            wave = p + np.float32(0.7) * np.abs(2 * (q - np.floor(q)) - 1)
            return (wave - np.floor(wave)) < 0.33
        case "two-tone":
            axis = np.array([cos, sin])
            middle, end = centroid(bodies) @ axis, max((body @ axis).max() for body in bodies)
            along = cos * u + sin * v
            return along > np.float32(middle + (end - middle) * (0.1 + 0.35 * pattern.phase))
        case _:
            return np.zeros(u.shape, bool)


def material_luminance(
    material: str, u: NDArray[np.float32], v: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Added light, as a share of white, that makes a surface look like its material."""
    match material:
        case "glossy":
            spot = 1 - ((u + 0.28) ** 2 / 0.05 + (v + 0.2) ** 2 / 0.12)
            return np.clip(spot * np.float32(1.6), 0, np.float32(0.85))
        case "metallic":
            sweep = u * np.float32(1.1) + v * np.float32(0.45)
            wave = np.abs((sweep - np.floor(sweep)) * 2 - 1)
            return (wave * wave * np.float32(0.9)) - np.float32(0.32)
        case "wooden":
            grain = u * np.float32(3.6) + v * v * np.float32(0.5)
            wave = grain - np.floor(grain)
            return np.where(wave < 0.24, np.float32(-0.3), np.float32(0.0))
        case "woolly":
            row = np.floor(v * 9).astype(np.int32)
            stitch = u * np.float32(5.5) + (row & 1) * np.float32(0.5)
            knot = ((stitch - np.floor(stitch)) - 0.5) ** 2 + (v * 9 - row - 0.5) ** 2
            return np.where(knot < 0.2, np.float32(0.12), np.float32(-0.2))
        case _:
            return np.zeros(u.shape, np.float32)


def _lit(
    colour: NDArray[np.float32],
    luminance: NDArray[np.float32],
    light: tuple[float, float],
    frame: Frame,
    u: NDArray[np.float32],
    v: NDArray[np.float32],
) -> Image:
    m = frame.matrix() / frame.size
    lx = float(m[0, 0] * light[0] + m[1, 0] * light[1])
    ly = float(m[0, 1] * light[0] + m[1, 1] * light[1])
    ramp = 1 + u * np.float32(round(lx, 4)) + v * np.float32(round(ly, 4))
    # Highlights add white, grain and stitches take a share of the colour itself.
    shade, glow = ramp * (1 + np.minimum(luminance, 0)), 255 * np.maximum(luminance, 0)
    # Channel by channel: NumPy broadcasts over a last axis of three at a fifth of the speed.
    channels = [np.clip(channel * shade + glow, 0, 255).astype(np.uint8) for channel in colour]
    return np.asarray(cv2.merge(channels), np.uint8)


def mark_outline(mark: Mark, x: float, y: float) -> Outline:
    s = mark.size
    match mark.kind:
        case "star":
            return star(x, y, s)
        case "cross":
            return star(x, y, s, points=4, inner=0.3)
        case "triangle":
            return polygon((x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8))
        case "heart":
            return polygon(
                (x, y + s), (x - s, y - 0.1 * s), (x - 0.5 * s, y - 0.8 * s),
                (x, y - 0.3 * s), (x + 0.5 * s, y - 0.8 * s), (x + s, y - 0.1 * s),
            )  # fmt: skip
        case _:
            return ellipse(x, y, s * 0.8, s * 0.8)


def darker(colour: RGB, factor: float) -> RGB:
    r, g, b = (round(channel * factor) for channel in colour)
    return r, g, b
