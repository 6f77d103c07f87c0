"""Working on the part of a photo that matters, at the size the model knows.

A box in a large photo is a few latent cells: too few to paint an identity. So the square around it
is cut out, filled at the model's own size, and pasted back at the photo's; what lies outside of the
mask stays as it was, bit for bit.
"""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError

Image = NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Window:
    """A square of a photo in pixels: left, top, side. It may reach beyond the photo's edge."""

    left: int
    top: int
    side: int

    @classmethod
    def around(cls, box_xyxy01: Box, image_HWC: Image, *, context: float) -> Self:
        """The square around a box whose longer side is `1 + context` times the box's.

        It is moved to lie within the photo where it fits; a square larger than the photo's shorter
        side is centred on it.

        Raises:
            UserError: the box is not within the photo, or covers less than two pixels a side.
        """
        height, width = image_HWC.shape[:2]
        left, top, right, bottom = require_box(box_xyxy01, image_HWC)
        side = round(max(right - left, bottom - top) * (1 + context))
        start = []
        for low, high, extent in ((left, right, width), (top, bottom, height)):
            first = round((low + high - side) / 2)
            start.append(
                min(max(first, 0), extent - side) if side <= extent else (extent - side) // 2
            )
        return cls(left=start[0], top=start[1], side=side)

    def cut(self, image_HWC: Image, size: int) -> Image:
        """The window at `size` x `size` pixels; beyond the photo its border is repeated."""
        height, width = image_HWC.shape[:2]
        before = max(0, -self.top), max(0, -self.left)
        after = max(0, self.top + self.side - height), max(0, self.left + self.side - width)
        padded = cv2.copyMakeBorder(
            image_HWC, before[0], after[0], before[1], after[1], cv2.BORDER_REPLICATE
        )
        top, left = self.top + before[0], self.left + before[1]
        square = padded[top : top + self.side, left : left + self.side]
        smaller = size < self.side
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(square, (size, size), interpolation=method), np.uint8)

    def paste(self, image_HWC: Image, filled_HWC: Image, mask_HW: Image) -> Image:
        """The photo with the window's filling where the mask (255 = fill) is, soft at its edge.

        `filled_HWC` has the model's size; the mask has the photo's. Pixels where the mask is 0 keep
        their value; within it the filling fades in over a few pixels, so that no seam shows.
        """
        height, width = image_HWC.shape[:2]
        whole = resized(filled_HWC, self.side, self.side)
        y0, x0 = max(0, self.top), max(0, self.left)
        y1, x1 = min(height, self.top + self.side), min(width, self.left + self.side)
        part = whole[y0 - self.top : y1 - self.top, x0 - self.left : x1 - self.left]
        result, here = image_HWC.copy(), np.s_[y0:y1, x0:x1]
        feather = max(1, round(self.side / 48))
        result[here] = blended(image_HWC[here], part, mask_HW[here], feather=feather)
        return result


def resized(image_HWC: Image, height: int, width: int) -> Image:
    """The picture at another size: averaged where it becomes smaller, else smooth."""
    smaller = height * width < image_HWC.shape[0] * image_HWC.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image_HWC, (width, height), interpolation=method), np.uint8)


def require_box(box_xyxy01: Box, image_HWC: Image) -> tuple[int, int, int, int]:
    """A box in whole pixels (left, top, right, bottom).

    Raises:
        UserError: it is not within the photo, or covers less than two pixels a side.
    """
    height, width = image_HWC.shape[:2]
    x0, y0, x1, y1 = box_xyxy01
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise UserError(
            f"The box {tuple(box_xyxy01)} was given.",
            "A box is x0, y0, x1, y1 in shares of the photo's width and height, within 0..1.",
            "Divide pixels by width and height, and give the left and top edge first.",
        )
    left, top = round(x0 * width), round(y0 * height)
    right, bottom = round(x1 * width), round(y1 * height)
    if right - left < 2 or bottom - top < 2:
        raise UserError(
            f"The box {tuple(box_xyxy01)} was given for a photo of {width} x {height} pixels.",
            f"It covers {right - left} x {bottom - top} pixels, and nothing can be painted there.",
            "Give a larger box, or a larger photo.",
        )
    return left, top, right, bottom


def closer(image_HWC: Image, box_xyxy01: Box, *, context: float) -> Image:
    """The square around a thing, longer than its box by `context`, at its own pixels."""
    window = Window.around(box_xyxy01, image_HWC, context=context)
    return window.cut(image_HWC, window.side)


def middle(image_HWC: Image, size: int) -> Image:
    """The middle square, scaled to `size` pixels."""
    height, width = image_HWC.shape[:2]
    side = min(height, width)
    return Window(left=(width - side) // 2, top=(height - side) // 2, side=side).cut(
        image_HWC, size
    )


def box_mask(box_xyxy01: Box, image_HWC: Image) -> Image:
    """uint8 [H, W], 255 inside the box. Raises UserError as `require_box`."""
    left, top, right, bottom = require_box(box_xyxy01, image_HWC)
    mask = np.zeros(image_HWC.shape[:2], np.uint8)
    mask[top:bottom, left:right] = 255
    return mask


def blended(image_HWC: Image, filled_HWC: Image, mask_HW: Image, *, feather: int) -> Image:
    """The picture with the filling where the mask (255 = fill) is, fading in over some pixels."""
    weight = _soft(mask_HW, feather)[..., None]
    return np.rint(image_HWC * (1 - weight) + filled_HWC * weight).astype(np.uint8)


def _soft(mask_HW: Image, feather: int) -> NDArray[np.float32]:
    """Weights 0..1 that rise inside the mask over `feather` pixels and are 0 outside of it.

    A mask that reaches the edge of the photo does not fade there. Weights rise faster in one that
    is too thin for `feather`, so that its middle is filled wholly.
    """
    inside = (mask_HW > 127).astype(np.uint8)
    framed = cv2.copyMakeBorder(inside, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    distance = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rise = min(feather + 1, max(1.0, float(distance.max())))
    return np.clip(distance / rise, 0, 1).astype(np.float32)
