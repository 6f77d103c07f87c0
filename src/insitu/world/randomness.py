"""Random streams that are equal on every machine."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from insitu.randomness import rng_for

__all__ = ["pick", "rng_for"]

T = TypeVar("T")


def pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    """One item, uniformly (`rng.choice` would turn it into an array element)."""
    return items[int(rng.integers(len(items)))]
