"""The location canvas: a face's patch on white, as large and where the target's landmarks say.

Appendix A.3. Points and scales are in pixels; a pixel's middle lies at a half.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.methods import Image

Points = NDArray[np.float64]
WHITE = 255


@dataclass(frozen=True, kw_only=True)
class Patch:
    """An upright face.

    Attributes:
        pixels: uint8 [P, P, 3]; alpha: uint8 [P, P], 0 = not of the face's picture.
        landmarks: five (x, y) in the patch, [5, 2].
    """

    pixels: Image
    alpha: Image
    landmarks: Points


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Where a patch goes: its side there, and its corner (x, y), which may lie outside."""

    side: int
    corner: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """uint8 [h, w, 3], white where `mask` [h, w] is 0; 255 = the face's."""

    pixels: Image
    mask: Image


def similarity(source_52: Points, target_52: Points) -> tuple[complex, complex]:
    """The least-squares z -> a z + b from source to target, points as complex numbers.

    a = sum(conj(s) t) / sum |s|^2 over centred points: a turn and a scale (Umeyama 1991). In
    floats of their own, without tensors, so that geometry needs no device.
    """
    source, target = source_52 @ (1, 1j), target_52 @ (1, 1j)
    s, t = source - source.mean(), target - target.mean()
    a = complex((s.conj() * t).sum() / (abs(s) ** 2).sum())
    return a, complex(target.mean() - a * source.mean())


def scale(patch_52: Points, target_52: Points) -> float:
    """s = 1 / sqrt(a^2 + b^2) of the similarity from the target to the patch (eq. 27, 28)."""
    a, _ = similarity(target_52, patch_52)
    return 1 / abs(a)


def fit(patch: Patch, target_52: Points, sides: tuple[float, float]) -> Fit:
    """Scale and place a patch by landmarks; a rotation between them is discarded.

    The offset is the mean of what is left between target and scaled patch (eq. 29), in whole
    pixels: no more than half a pixel of it remains in x or in y.

    Args:
        sides: the least and the most that the patch's side becomes, in pixels.
    """
    size = len(patch.pixels)
    side = round(min(max(scale(patch.landmarks, target_52) * size, sides[0]), sides[1]))
    # By the scale that the patch really gets: its side is a whole number.
    left = (target_52 - side / size * patch.landmarks).mean(0)
    return Fit(side=side, corner=(round(left[0]), round(left[1])))


def paste(patch: Patch, place: Fit, height: int, width: int) -> Canvas:
    """A white canvas with the patch, clipped at its borders (eq. 30)."""
    shape = place.side, place.side
    smaller = place.side < len(patch.pixels)
    pixels = cv2.resize(
        patch.pixels, shape, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    )
    alpha = cv2.resize(patch.alpha, shape, interpolation=cv2.INTER_NEAREST_EXACT)
    x, y = place.corner
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = max(x0, min(width, x + place.side)), max(y0, min(height, y + place.side))
    canvas = Canvas(
        pixels=np.full((height, width, 3), WHITE, np.uint8),
        mask=np.zeros((height, width), np.uint8),
    )
    inside = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
    weight = alpha[inside][..., None] / 255
    mixed = weight * pixels[inside] + (1 - weight) * WHITE
    canvas.pixels[y0:y1, x0:x1] = np.rint(mixed)
    canvas.mask[y0:y1, x0:x1] = np.where(alpha[inside] > 127, 255, 0)
    return canvas


def tokens_under(mask_HW: Image, stride: int) -> NDArray[np.int64]:
    """Numbers of the tokens, row by row, of which any pixel is in the mask (eq. 13)."""
    height, width = mask_HW.shape
    cells = (mask_HW > 127).reshape(height // stride, stride, width // stride, stride)
    return np.flatnonzero(cells.any((1, 3)))


def most_tokens(side: float, height: int, width: int, stride: int) -> int:
    """The most tokens that a patch of at most `side` pixels can touch."""
    along = int(np.ceil(side / stride)) + 1
    return min(along, height // stride) * min(along, width // stride)


def overlap(first: Canvas, second: Canvas) -> float:
    """The share of the smaller face's mask that both faces cover, 0..1."""
    one, other = first.mask > 127, second.mask > 127
    return float((one & other).sum() / max(1, min(one.sum(), other.sum())))
