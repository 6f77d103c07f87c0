"""Bytes of a picture file -> upright RGB, in the file's own bytes where these are that already."""

import io
import re
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as Pillow

from insitu.records import Image

MAX_PIXELS = 2**26
"""8192 x 8192, 200 MB once decoded; Pillow's own limit is higher."""

_KEPT_AS_THEY_ARE = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further pictures after it
_UPRIGHT = {
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright (EXIF 2.32, tag 274)."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A picture, encoded and decoded.

    Attributes:
        image: PNG or JPEG.
        pixels: the same, as upright RGB.
    """

    image: Image
    pixels: Pillow.Image


class UnreadableError(Exception):
    """These bytes are no picture, or a broken one; the message says how, without its name."""


class TooLargeError(Exception):
    """Too many pixels to decode; they may be a trap, since a small file can hold very many.

    Attributes:
        size: width and height; None where Pillow refused before it told them.
        pixels: how many, or the limit that they are above.
    """

    def __init__(self, size: tuple[int, int] | None, pixels: int) -> None:
        self.size, self.pixels = size, pixels
        super().__init__(size, pixels)


def decode(data: bytes) -> Decoded:
    """Decode a picture: the first frame, turned as its EXIF says, transparency over white.

    Raises:
        UnreadableError: it is no picture, broken, cut off, or its numbers have no known range.
        TooLargeError: it has more than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            # What Pillow warns of either fails the decoding or leaves the pixels alone.
            warnings.simplefilter("ignore")
            picture = Pillow.open(io.BytesIO(data))
            if picture.width * picture.height > MAX_PIXELS:
                raise TooLargeError(picture.size, picture.width * picture.height)
            picture.load()
            return _upright_rgb(picture, data)
    except (TooLargeError, UnreadableError):
        raise
    except Pillow.DecompressionBombError:
        raise TooLargeError(None, 2 * (Pillow.MAX_IMAGE_PIXELS or MAX_PIXELS)) from None
    except UnidentifiedImageError:
        raise UnreadableError("it is no picture, or of an unknown format") from None
    except Exception as error:
        # Broken bytes make Pillow's parsers raise whatever they stumble over: struct.error,
        # KeyError, zlib.error and more. Addresses in a message would differ from run to run.
        told = re.sub(r" at 0x[0-9a-f]+", "", str(error)) or type(error).__name__
        raise UnreadableError(told) from None


def _upright_rgb(picture: Pillow.Image, data: bytes) -> Decoded:
    turn = _UPRIGHT.get(_orientation(picture))
    if (
        turn is None
        and picture.mode == "RGB"
        and picture.format in _KEPT_AS_THEY_ARE
        and not picture.has_transparency_data
        and not (picture.format == "PNG" and getattr(picture, "is_animated", False))
    ):
        return Decoded(image=Image(data), pixels=picture)
    pixels = _rgb(picture)
    if turn is not None:
        pixels = pixels.transpose(turn)
    return Decoded(image=Image.from_array(np.asarray(pixels)), pixels=pixels)


def _orientation(picture: Pillow.Image) -> int:
    try:
        return int(picture.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1  # damaged EXIF tells nothing, and the pixels are whole


def _rgb(picture: Pillow.Image) -> Pillow.Image:
    if picture.mode.startswith("I;16"):
        # 16 bits a pixel: Pillow's own conversion would clip at 255 instead of scaling.
        levels = np.asarray(picture).astype(np.uint16) >> 8
        return Pillow.fromarray(levels.astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise UnreadableError(f"its pixels are numbers without a known range (mode {picture.mode})")
    if picture.has_transparency_data:
        # Under full transparency lie colours that nobody has seen.
        shown = picture.convert("RGBA")
        return Pillow.alpha_composite(
            Pillow.new("RGBA", shown.size, (255, 255, 255, 255)), shown
        ).convert("RGB")
    return picture.convert("RGB")
