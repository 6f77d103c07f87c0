"""Proves that what is to be worn is asked for where the person's garment is, and nowhere else.

Needs nothing but the world.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.evaluation.worn import LEAST, worn


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_the_mask_is_the_garment_that_is_there(number: int) -> None:
    request = worn(number, size=64, seed=0)
    (place,) = request.placements
    assert place.mask is not None and place.reference is not None
    inside = place.mask > 127
    assert inside.mean() >= LEAST and set(np.unique(place.mask)) == {0, 255}
    x0, y0, x1, y1 = (round(edge * 64) for edge in place.box_xyxy01)
    assert inside[y0:y1, x0:x1].sum() == inside.sum()
    # The head above it stays: a garment is the lower part of a bust.
    rows = np.flatnonzero(inside.any(1))
    assert rows.mean() > 32
    assert (place.reference[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()


def test_a_number_gives_the_same_request_again() -> None:
    one, again, other = (worn(number, size=64, seed=1) for number in (3, 3, 4))
    assert np.array_equal(one.image, again.image)
    assert not np.array_equal(one.image, other.image)
