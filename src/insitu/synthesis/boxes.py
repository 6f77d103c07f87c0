"""Boxes: how they grow, how much they share, and a picture with its boxes blanked."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from insitu.records import Box

Pixels = NDArray[np.uint8]
Corners = tuple[float, float, float, float]


def stored(corners: Corners) -> Box:
    """A model's box as it is stored: four digits, rounded outward, so that none loses its width."""
    x0, y0, x1, y1 = corners
    return Box(
        x0=math.floor(x0 * 1e4) / 1e4,
        y0=math.floor(y0 * 1e4) / 1e4,
        x1=math.ceil(x1 * 1e4) / 1e4,
        y1=math.ceil(y1 * 1e4) / 1e4,
    )


def enlarge(box: Box, growth: float, grow: Literal["side", "edge"]) -> Box:
    """A box enlarged and clipped to the picture.

    `side`: each side is 1 + growth times as long; `edge`: each edge moves out by `growth` of the
    side, so that the side is 1 + 2 growth times as long. The paper's "50% along each edge" can be
    read either way.
    """
    share = growth / 2 if grow == "side" else growth
    wide, high = (box.x1 - box.x0) * share, (box.y1 - box.y0) * share
    return Box(
        x0=max(0.0, box.x0 - wide),
        y0=max(0.0, box.y0 - high),
        x1=min(1.0, box.x1 + wide),
        y1=min(1.0, box.y1 + high),
    )


def blank(image: Pixels, boxes: Iterable[Box], fill: int) -> Pixels:
    """x_m: the picture with the boxes filled with a gray, 0..255; whole pixels, outward."""
    result = image.copy()
    height, width = image.shape[:2]
    for box in boxes:
        rows = slice(int(np.floor(box.y0 * height)), int(np.ceil(box.y1 * height)))
        columns = slice(int(np.floor(box.x0 * width)), int(np.ceil(box.x1 * width)))
        result[rows, columns] = fill
    return result


def overlap(a: Corners, b: Corners) -> float:
    """Intersection over union of two boxes."""
    shared = _shared(a, b)
    union = _area(a) + _area(b) - shared
    return shared / union if union > 0 else 0.0


def covered(box: Corners, others: Sequence[Corners]) -> float:
    """The share of a box that lies in the one of the others that covers it most."""
    return max((share_inside(box, other) for other in others), default=0.0)


def share_inside(box: Corners, other: Corners) -> float:
    """The share of a box that lies in another one."""
    return _shared(box, other) / _area(box)


def _shared(a: Corners, b: Corners) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, wide) * max(0.0, high)


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
