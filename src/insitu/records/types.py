"""What a row is: records, rejected records, and the values they hold."""

import io
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage

from insitu.errors import UserError

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")  # PNG, JPEG


@dataclass(frozen=True, kw_only=True)
class Record:
    """One row. Subclasses are frozen keyword-only dataclasses; their annotations are the schema.

    A field is a str, int (64 bits), float (finite), bool, `Image`, a frozen dataclass of such
    fields (`Box`), a `list[...]` or `tuple[..., ...]` of one of them, or one of them `| None`.

    Attributes:
        id: names the row within its folder; not empty.
    """

    id: str


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Rejected(Generic[R]):
    """A record that a filter refused; the whole row is kept, so that the choice can be reviewed.

    Attributes:
        record: the refused row.
        filter: name of the filter.
        score: what the filter measured, finite, in the filter's own unit.
        reason: why that was not enough, for a reader.
    """

    record: R
    filter: str
    score: float
    reason: str

    @property
    def id(self) -> str:
        """The id of the refused record."""
        return self.record.id


@dataclass(frozen=True, kw_only=True)
class Box:
    """A box in relative image coordinates: 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1, y down."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (0 <= self.x0 < self.x1 <= 1 and 0 <= self.y0 < self.y1 <= 1):
            raise UserError(
                f"The box {(self.x0, self.y0, self.x1, self.y1)} was given.",
                "A box is x0, y0, x1, y1 within 0..1, with x0 < x1 and y0 < y1.",
                "Divide pixels by width and height, clip to the image, and drop empty boxes.",
            )

    @property
    def xyxy01(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        return (self.x0, self.y0, self.x1, self.y1)


@dataclass(frozen=True)
class Image:
    """An encoded picture, PNG or JPEG, stored as it is."""

    data: bytes

    def __post_init__(self) -> None:
        if not self.data.startswith(_SIGNATURES):
            raise UserError(
                f"{len(self.data)} bytes starting with {self.data[:8]!r} were given as an image.",
                "That is neither PNG nor JPEG.",
                "Encode the picture first, for example with Image.from_array.",
            )

    @classmethod
    def from_array(cls, image_HWC: npt.NDArray[np.uint8]) -> Self:
        """Encode RGB [H, W, 3] or gray [H, W] pixels, uint8, as PNG; no pixel changes."""
        shape = image_HWC.shape
        if image_HWC.dtype != np.uint8 or not (
            len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
        ):
            raise UserError(
                f"An array of {image_HWC.dtype} {list(shape)} was given as an image.",
                "Images are uint8 in RGB [H, W, 3] or gray [H, W].",
                "Scale to 0..255, convert to uint8, and put the channels last.",
            )
        buffer = io.BytesIO()
        PillowImage.fromarray(image_HWC).save(buffer, format="PNG")
        return cls(buffer.getvalue())

    def array(self) -> npt.NDArray[np.uint8]:
        """Decode to RGB pixels, uint8 [H, W, 3], in 0..255."""
        with PillowImage.open(io.BytesIO(self.data), formats=("PNG", "JPEG")) as picture:
            return np.asarray(picture.convert("RGB"), dtype=np.uint8)
