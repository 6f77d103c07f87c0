"""Pictures about pictures: tinted masks, a hidden region, a face cut out with its points."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.gallery.page import Box, DrawnPoint, Image, Point
from insitu.perception.dino import crop_square

PALETTE = ("#ff5d5d", "#2f9bff", "#ffb000", "#22b573", "#c06bff", "#12c3c9", "#ff7ac6", "#9a7b4f")
"""Colours of boxes, masks, points and lines by number; told apart on light, dark and pictures."""
GRAY = 0.35  # what is left of a picture where no mask is


def rgb(colour: int) -> NDArray[np.float64]:
    """A palette colour, [3] in 0..255."""
    code = PALETTE[colour % len(PALETTE)]
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)], np.float64)


def tinted(image: Image, masks: Sequence[NDArray[np.bool_]]) -> Image:
    """The nth mask [H, W] in the nth palette colour over a paled picture."""
    result = 255 - (255 - image.astype(np.float64).mean(axis=2, keepdims=True)) * GRAY
    result = np.repeat(result, 3, axis=2)
    for colour, mask in enumerate(masks):
        result[mask] = 0.35 * image[mask] + 0.65 * rgb(colour)
    return np.rint(result).astype(np.uint8)


def hidden(image: Image, mask: NDArray[np.bool_]) -> Image:
    """The picture with stripes over what `mask` [H, W] marks as to be filled."""
    height, width = mask.shape
    stripe = max(2, width // 16)
    diagonal = np.add.outer(np.arange(height), np.arange(width)) // stripe % 2
    stripes = np.where(diagonal[..., None] == 0, np.uint8(120), np.uint8(150))
    result: Image = np.where(mask[..., None], stripes, image)
    return result


def face_crop(
    image: Image,
    box_xyxy01: Box | NDArray[np.float64],
    points: Sequence[NDArray[np.float64]],
    size: int,
    margin: float,
) -> tuple[Image, list[NDArray[np.float64]]]:
    """The square around a face, and sets of points [K, 2] (xy01) carried over into it."""
    height, width = image.shape[:2]
    box = np.array(box_xyxy01, np.float64) * (width, height, width, height)
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + 2 * margin)
    corner = (box[:2] + box[2:] - side) / 2
    inside = [(np.asarray(own) * (width, height) - corner) / side for own in points]
    return crop_square(image, box_xyxy01, size, margin), inside


def dots(
    points_K2: Iterable[Iterable[float]], *, colour: int, filled: bool
) -> tuple[DrawnPoint, ...]:
    """Points to draw, all of one kind."""
    pairs: list[Point] = [(float(x), float(y)) for x, y in points_K2]
    return tuple(DrawnPoint(point_xy01=pair, colour=colour, filled=filled) for pair in pairs)
