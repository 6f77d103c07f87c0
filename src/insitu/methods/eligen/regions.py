"""From boxes and masks of a photo to the latent cells and tokens of what is painted."""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.backbones.zoom import box_mask
from insitu.errors import UserError
from insitu.requests import Image, Placement

Cells = NDArray[np.bool_]


def canvas(image_HWC: Image, *, size: int, stride: int) -> tuple[int, int]:
    """Height and width that a photo is painted at: its own shape, as many pixels as a square of
    `size`, sides multiples of `stride`."""
    height, width = image_HWC.shape[:2]
    scale = size / math.sqrt(height * width)
    sides = [max(1, round(side * scale / stride)) * stride for side in (height, width)]
    return sides[0], sides[1]


def scaled(image: Image, height: int, width: int) -> Image:
    """A picture at another size; bit for bit itself at its own."""
    if image.shape[:2] == (height, width):
        return image
    smaller = height * width < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def place(placement: Placement, image_HWC: Image) -> Image:
    """A placement's mask, or its box as one, uint8 [H, W]. Raises UserError as `require_box`."""
    if placement.mask is not None:
        return placement.mask
    return box_mask(placement.box_xyxy01, image_HWC)


def cells_of(mask_HW: Image, height: int, width: int) -> Cells:
    """A mask (255 = in) at the latents' size, bool [h, w]: each cell asks the nearest pixel, the
    one at floor(row H / h), floor(column W / w)."""
    rows = np.arange(height) * mask_HW.shape[0] // height
    columns = np.arange(width) * mask_HW.shape[1] // width
    return np.asarray(mask_HW[np.ix_(rows, columns)] > 127)


def tokens_of(cells_hw: Cells) -> Cells:
    """bool [h w / 4] in the order of packed latents: true where any of a token's 4 cells is."""
    height, width = cells_hw.shape
    return cells_hw.reshape(height // 2, 2, width // 2, 2).any((1, 3)).reshape(-1)


def require_region(
    placement: Placement, number: int, image_HWC: Image, *, size: int, stride: int, cell: int
) -> None:
    """Refuse a place that is too small to be painted in.

    Args:
        number: of the placement, from 1.
        size, stride, cell: pixels of the canvas, of a token and of a latent cell.

    Raises:
        UserError: a box smaller than a token, or a place that no latent cell falls into.
    """
    height, width = canvas(image_HWC, size=size, stride=stride)
    painted = f"The photo is painted at {width} x {height} pixels, in tokens of {stride} x {stride}"
    mask = place(placement, image_HWC)
    x0, y0, x1, y1 = placement.box_xyxy01
    wide, high = (x1 - x0) * width, (y1 - y0) * height
    small = not cells_of(mask, height // cell, width // cell).any()
    if placement.mask is None:
        small |= wide * high < stride**2
        given = f"box of placement {number} is {placement.box_xyxy01}"
        why = f"{painted}, and there it is {wide:.1f} x {high:.1f}: under one token, or too thin."
    else:
        given = f"mask of placement {number} has {int((mask > 127).sum())} pixels"
        why = f"{painted}, and none falls into it: it is too small or too thin."
    if small:
        raise UserError(
            f"The {given}.",
            why,
            "Make it larger, give a photo of what is around it, or use a base of a larger size.",
        )
