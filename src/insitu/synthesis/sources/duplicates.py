"""Has this picture been seen before, to the byte or nearly? Asked of one picture at a time."""

from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image as Pillow

HASH_BITS = 64
_FIRST_CAPACITY = 1024


@dataclass(frozen=True, kw_only=True)
class Match:
    """An earlier picture that another one repeats.

    Attributes:
        id: of the earlier one.
        identity: whose picture the earlier one is.
        bits: how many of the hash's 64 bits differ; None if the files are equal to the byte.
    """

    id: str
    identity: str | None
    bits: int | None


class Seen:
    """The kept pictures so far.

    A hash is compared with all earlier ones in one numpy expression over packed 64-bit words: n
    operations for the n-th picture, n²/2 in all, some nanoseconds each. For 100,000 pictures that
    is under 20 seconds, where decoding takes many minutes; buckets of equal bits would pay only
    far above that, and only for few differing bits. Memory: 8 bytes a picture, and its names.
    """

    def __init__(self, bits: int | None) -> None:
        """`bits`: how many of 64 may differ in a near-duplicate; None: only equal files match."""
        self._bits = bits
        self._names: list[tuple[str, str | None]] = []
        self._by_digest: dict[bytes, int] = {}
        self._hashes = np.zeros(_FIRST_CAPACITY, np.uint64)

    def repeats(
        self, name: str, identity: str | None, *, sha256: str, pixels: Pillow.Image
    ) -> Match | None:
        """The earlier picture that this one repeats, the nearest; None makes this one seen.

        Args:
            name: the picture's id.
            identity: whose picture it is.
            sha256: of its file, as hex digits.
            pixels: upright RGB.
        """
        digest = bytes.fromhex(sha256)
        if (found := self._by_digest.get(digest)) is not None:
            return self._match(found, None)
        count = len(self._names)
        if self._bits is not None:
            code = perceptual_hash(pixels)
            if count:
                differing = np.bitwise_count(self._hashes[:count] ^ code)
                nearest = int(differing.argmin())  # of equally near ones, the first
                if differing[nearest] <= self._bits:
                    return self._match(nearest, int(differing[nearest]))
            if count == len(self._hashes):
                self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
            self._hashes[count] = code
        self._by_digest[digest] = count
        self._names.append((name, identity))
        return None

    def _match(self, index: int, bits: int | None) -> Match:
        name, identity = self._names[index]
        return Match(id=name, identity=identity, bits=bits)


def perceptual_hash(pixels: Pillow.Image) -> np.uint64:
    """imagehash's pHash: which low frequencies of the grey picture are above their median.

    Scaling, compressing and slight changes of tone move few of the 64 bits; so does repainting in
    another colour of the same brightness.
    """
    return np.uint64(int.from_bytes(np.packbits(imagehash.phash(pixels).hash).tobytes(), "big"))
