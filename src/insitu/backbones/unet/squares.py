"""The square around a place, painted at the model's size, and its way back into the photo."""

from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.backbones.zoom import Window, box_mask
from insitu.requests import Box, Request

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Square:
    """A request's only place, cut out.

    Attributes:
        photo: the whole of it, and `place` its mask there, uint8 [H, W], 255 = fill.
        around: the place, enlarged where that was asked for.
        window: where the square lies in it.
        image, mask: the square at the model's size.
    """

    photo: Image
    place: Image
    around: Image
    window: Window
    image: Image
    mask: Image

    @classmethod
    def of(cls, request: Request, context: float, size: int, *, enlarge: float = 0.0) -> Self:
        """The square around the first placement, longer than its box by `context`.

        Args:
            enlarge: how much longer the sides of what is filled are than the place's, as a share.

        Raises:
            UserError: the box is none, or smaller than two pixels.
        """
        placement, photo = request.placements[0], request.image
        place = placement.mask
        if place is None:
            place = box_mask(placement.box_xyxy01, photo)
        around = _enlarged(place, placement.box_xyxy01, enlarge) if enlarge else place
        window = Window.around(placement.box_xyxy01, photo, context=context + enlarge)
        return cls(
            photo=photo, place=place, around=around, window=window,
            image=window.cut(photo, size), mask=window.cut(around, size),
        )  # fmt: skip

    def inserted(self, filled_HWC: Image) -> Image:
        """The photo with the filling wherever it was painted, also around the place."""
        return self.window.paste(self.photo, filled_HWC, self.around)

    def paste(self, filled_HWC: Image) -> Image:
        """The photo with the filling; outside of the place it is bit for bit what it was."""
        return self.window.paste(self.photo, filled_HWC, self.place)


def _enlarged(mask_HW: Image, box_xyxy01: Box, share: float) -> Image:
    """The mask, grown on all sides by half a share of its box's longer side."""
    height, width = mask_HW.shape
    x0, y0, x1, y1 = box_xyxy01
    grow = max(1, round(max((x1 - x0) * width, (y1 - y0) * height) * share / 2))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * grow + 1, 2 * grow + 1))
    return np.asarray(cv2.dilate(mask_HW, kernel), np.uint8)
