"""Pictures from anywhere: what data sets are made of."""

import functools
from dataclasses import dataclass

import numpy as np

from insitu.records.types import Image, Record


@dataclass(frozen=True, kw_only=True)
class Picture(Record):
    """One picture of a source, upright and RGB.

    One that was set aside undecoded (`unreadable`, `too large`, `file too large`) has
    `placeholder()` as its image: its own bytes may be no PNG or JPEG, and would stop whoever opens
    the rejected rows. `source` and `sha256` name the original.

    Attributes:
        image: PNG or JPEG: the file's own bytes where they are upright RGB already, otherwise a
            PNG of the turned and converted pixels.
        width: in pixels, upright; 0 where it is not known.
        height: in pixels, upright; 0 where it is not known.
        identity: whose picture it is, or None if nobody said.
        caption: what it shows, in words.
        split: train, validation or test.
        source: where it came from: path or url of its file, `file#member` or `file#row`.
        sha256: of the original bytes, 64 hex digits; empty where there were none to read.
        licence: under what it may be used.
    """

    image: Image
    width: int
    height: int
    identity: str | None
    caption: str | None
    split: str
    source: str
    sha256: str
    licence: str | None


@functools.cache
def placeholder() -> Image:
    """One grey pixel, in place of what could not be decoded."""
    return Image.from_array(np.full((1, 1), 128, np.uint8))
