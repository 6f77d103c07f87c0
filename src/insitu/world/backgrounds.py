"""Where a scene takes place, and the styles that repaint all of it."""

import cv2
import numpy as np

from insitu.world.geometry import Outline, band, box, ellipse, polygon
from insitu.world.paint import Canvas, Image, darker
from insitu.world.vocabulary import COLOURS, RGB

HORIZON = 0.6


def paint_background(canvas: Canvas, kind: str, colour: str, rng: np.random.Generator) -> None:
    """Fill the whole canvas; `rng` places clouds, trees and folds."""
    _PAINTERS[kind](canvas, COLOURS[colour], rng)


def _gradient(canvas: Canvas, y0: float, y1: float, top: RGB, bottom: RGB) -> None:
    n = canvas.samples
    a, b = round(y0 * n), round(y1 * n)
    share = (np.arange(b - a) / max(b - a - 1, 1))[:, None]
    rows = np.rint(np.array(top) * (1 - share) + np.array(bottom) * share).astype(np.uint8)
    # Five times as fast as NumPy's broadcasting over three channels.
    cv2.resize(rows[:, None], (n, b - a), dst=canvas.rgb[a:b], interpolation=cv2.INTER_NEAREST)


def _muted(colour: RGB, toward: int = 225, share: float = 0.5) -> RGB:
    r, g, b = (round(c * (1 - share) + toward * share) for c in colour)
    return r, g, b


def _wall(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    tone = _muted(colour)
    _gradient(canvas, 0, 0.8, tone, darker(tone, 0.92))
    _gradient(canvas, 0.8, 1, darker(tone, 0.74), darker(tone, 0.84))


def _rug(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, 0.5, (232, 226, 216), (222, 214, 202))
    _gradient(canvas, 0.5, 1, (186, 150, 112), (166, 128, 92))
    canvas.fill(ellipse(0.5, 0.8, 0.5, 0.2), darker(_muted(colour, 200, 0.2), 0.75))
    canvas.fill(ellipse(0.5, 0.8, 0.46, 0.17), _muted(colour, 200, 0.2))


def _table(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, HORIZON, (206, 216, 222), (190, 202, 210))
    _gradient(canvas, HORIZON, 1, (182, 122, 70), (150, 96, 54))
    for y in np.linspace(HORIZON + 0.1, 0.95, 4) + rng.uniform(-0.02, 0.02, 4):
        canvas.fill(box(0, float(y), 1, float(y) + 0.012), (134, 84, 46))


def _grass(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, HORIZON, (120, 186, 238), (206, 230, 246))
    _cloud(canvas, rng)
    _gradient(canvas, HORIZON, 1, (126, 190, 84), (84, 152, 60))


def _beach(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, 0.42, (126, 196, 240), (214, 236, 248))
    canvas.fill(ellipse(float(rng.uniform(0.1, 0.9)), 0.14, 0.07, 0.07), (255, 236, 150))
    _gradient(canvas, 0.42, HORIZON, (44, 132, 186), (92, 186, 206))
    _gradient(canvas, HORIZON, 1, (244, 222, 166), (226, 196, 134))


def _snow(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, HORIZON, (168, 186, 206), (216, 226, 236))
    for x in rng.uniform(0, 1, 4):
        _pine(canvas, float(x), HORIZON + 0.02, 0.26, (84, 116, 108))
    _gradient_below(canvas, (248, 250, 253), (222, 232, 244))


def _city(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, HORIZON, (178, 200, 222), (226, 226, 224))
    for i, height in enumerate(rng.uniform(0.2, 0.5, 6)):
        x, tone = i / 6 - 0.02, (104 + 14 * (i % 3), 112 + 10 * (i % 3), 130 + 8 * (i % 3))
        canvas.fill(box(x, HORIZON - float(height), x + 0.18, HORIZON), tone)
        for y in np.arange(HORIZON - float(height) + 0.05, HORIZON - 0.05, 0.1):
            canvas.fill(box(x + 0.04, y, x + 0.07, y + 0.04), (236, 222, 150))
            canvas.fill(box(x + 0.11, y, x + 0.14, y + 0.04), (236, 222, 150))
    _gradient_below(canvas, (112, 114, 120), (92, 94, 100))
    for x in (0.08, 0.44, 0.8):
        canvas.fill(band(x, 0.86, x + 0.14, 0.86, 0.025), (226, 226, 214))


def _forest(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, HORIZON, (112, 156, 118), (168, 194, 142))
    for x in rng.uniform(0, 1, 6):
        _pine(canvas, float(x), HORIZON + 0.04, float(rng.uniform(0.4, 0.6)), (40, 92, 62))
    _gradient_below(canvas, (96, 118, 62), (76, 94, 50))


def _fabric(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, 1, (242, 240, 236), (226, 224, 222))
    for x in rng.uniform(-0.2, 1, 4):
        fold = polygon((x, 0), (x + 0.06, 0), (x + 0.3, 1), (x + 0.22, 1))
        canvas.fill(fold, (214, 212, 212))


def _box(canvas: Canvas, colour: RGB, rng: np.random.Generator) -> None:
    _gradient(canvas, 0, 1, (176, 190, 186), (150, 164, 162))
    canvas.fill(polygon((0.12, 0.66), (0.88, 0.66), (1.0, 0.84), (0.0, 0.84)), (214, 168, 108))
    canvas.fill(box(0, 0.84, 1, 1), (168, 122, 72))
    canvas.fill(box(0, 0.905, 1, 0.925), (122, 84, 48))


def _gradient_below(canvas: Canvas, top: RGB, bottom: RGB) -> None:
    _gradient(canvas, HORIZON, 1, top, bottom)


def _cloud(canvas: Canvas, rng: np.random.Generator) -> None:
    for x in rng.uniform(0, 1, 2):
        y = float(rng.uniform(0.08, 0.26))
        for dx, r in ((-0.08, 0.05), (0, 0.075), (0.08, 0.05)):
            canvas.fill(ellipse(float(x) + dx, y, r * 1.4, r), (246, 250, 253))


def _pine(canvas: Canvas, x: float, base: float, height: float, colour: RGB) -> None:
    canvas.fill(box(x - 0.012, base - 0.1, x + 0.012, base), (92, 66, 46))
    for share in (0.2, 0.5, 0.8):
        half, top = height * 0.34 * (1.1 - share), base - height * (share + 0.3)
        outline: Outline = polygon(
            (x, top), (x + half, base - height * share), (x - half, base - height * share)
        )
        canvas.fill(outline, darker(colour, 0.85 + 0.3 * share))


_PAINTERS = {
    "wall": _wall, "rug": _rug, "table": _table, "grass": _grass, "beach": _beach, "snow": _snow,
    "city": _city, "forest": _forest, "fabric": _fabric, "box": _box,
}  # fmt: skip


def restyle(rgb: Image, style: str) -> Image:
    """Repaint a finished supersampled picture uint8 [n, n, 3]; integer arithmetic throughout."""
    match style:
        case "line art":
            kernel = np.ones((max(3, rgb.shape[0] // 85),) * 2, np.uint8)
            gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
            lines = cv2.morphologyEx(gray, cv2.MORPH_GRADIENT, kernel)
            ink = cv2.LUT(lines, np.clip(250 - 5 * np.arange(256), 24, 250).astype(np.uint8))
            return np.repeat(ink[..., None], 3, axis=2)
        case "pastel":
            table = np.rint(112 + np.arange(256) * 0.55).astype(np.uint8)
            return np.asarray(cv2.LUT(rgb, table), np.uint8)
        case "night":
            levels = np.arange(256)[:, None] * np.array([0.5, 0.5, 0.64]) + np.array([4, 8, 34])
            return np.asarray(cv2.LUT(rgb, np.rint(levels).astype(np.uint8)[None]), np.uint8)
        case _:
            return rgb
