"""Random streams by name: what a draw depends on is written where it is drawn."""

import hashlib

import numpy as np


def rng_for(*key: int | str) -> np.random.Generator:
    """The stream that belongs to `key`, e.g. `rng_for("held-out", 17)`.

    Keys are hashed, so streams of different keys are independent and no key needs registering.
    """
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))
