"""Random streams that are equal on every machine."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def rng_for(*key: int | str) -> np.random.Generator:
    """The stream that belongs to `key`, e.g. `rng_for("held-out", 17)`.

    Keys are hashed, so streams of different keys are independent and no key needs registering.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly (`rng.choice` would turn it into an array element)."""
    return items[int(rng.integers(len(items)))]
