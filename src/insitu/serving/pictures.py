"""Pictures of strangers: read within bounds, or refused."""

import base64
import binascii
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from insitu.errors import UserError

Image = NDArray[np.uint8]
MAX_PIXELS = 4096 * 4096
FORMATS = ("PNG", "JPEG", "WEBP")


def encode(image_HWC: Image) -> str:
    """Pixels as a PNG in base64."""
    return base64.b64encode(png(image_HWC)).decode()


def png(image_HWC: Image) -> bytes:
    """Pixels as a PNG."""
    buffer = io.BytesIO()
    Pillow.fromarray(image_HWC).save(buffer, format="PNG")
    return buffer.getvalue()


def decode(text: str) -> Image:
    """A picture in base64 as RGB pixels [H, W, 3]. Raises as `unpacked` and `read_photo`."""
    return read_photo(unpacked(text))


def unpacked(text: str) -> bytes:
    """Bytes from base64, or from a data URL of it.

    Raises:
        UserError: it is neither.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: not ASCII
        raise UserError(
            f"A picture of {len(text)} characters was sent.",
            "It is not base64.",
            "Encode the file's bytes in base64.",
        ) from None


def read_photo(data: bytes, *, pixels: int = MAX_PIXELS) -> Image:
    """A picture as RGB pixels [H, W, 3], upright, what is transparent on white.

    Args:
        pixels: that it may have at most; more are refused before they are decoded.

    Raises:
        UserError: it is no whole picture of these formats, or has too many pixels.
    """
    return _read(data, "RGB", pixels)


def read_mask(data: bytes, *, pixels: int = MAX_PIXELS) -> Image:
    """A mask as gray pixels [H, W]. Raises as `read_photo`."""
    return _read(data, "L", pixels)


def read_hole(data: bytes, *, pixels: int = MAX_PIXELS) -> Image:
    """A picture's transparent part as a mask [H, W], 255 = fully transparent.

    Raises:
        UserError: as `read_photo`; also if nothing is transparent.
    """
    alpha = _read(data, "A", pixels)
    hole = np.where(alpha == 0, np.uint8(255), np.uint8(0))
    if not hole.any():
        raise UserError(
            f"A mask of {hole.shape[1]} x {hole.shape[0]} pixels was given.",
            "No pixel of it is fully transparent, so there is nothing to paint.",
            "Make transparent (alpha 0) what is to be painted anew.",
        )
    return hole


def _read(data: bytes, mode: Literal["RGB", "L", "A"], pixels: int) -> Image:
    try:
        with Pillow.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > pixels:
                raise UserError(
                    f"A picture of {picture.width} x {picture.height} pixels was given.",
                    f"At most {pixels} pixels are taken.",
                    "Give a smaller one.",
                )
            upright = ImageOps.exif_transpose(picture)
            if mode == "A":
                return np.array(upright.convert("RGBA").getchannel("A"), np.uint8)
            if upright.has_transparency_data:
                white = Pillow.new("RGBA", upright.size, "white")
                upright = Pillow.alpha_composite(white, upright.convert("RGBA"))
            return np.array(upright.convert(mode), np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError):
        raise UserError(
            f"A picture of {len(data)} bytes was given.",
            f"It is no whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]}.",
            "Save it again as one of these.",
        ) from None
