"""Proves that subjects get boxes of their own proportions, within the place that was freed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.evaluation.metrics import Photo
from insitu.evaluation.placement import Place, Reference, places

SHARES = st.floats(0.0, 0.6)


@given(left=SHARES, top=SHARES, side=st.floats(0.1, 0.4), proportions=st.floats(0.2, 5.0))
def test_a_box_has_the_asked_proportions_and_stands_on_the_ground(
    left: float, top: float, side: float, proportions: float
) -> None:
    freed = (left, top, left + side, top + side)
    place = Place(image=np.zeros((8, 8, 3), np.uint8), freed_xyxy01=freed, text="")
    x0, y0, x1, y1 = place.box(proportions)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(proportions)
    assert y1 == freed[3] and x0 + x1 == pytest.approx(freed[0] + freed[2])
    assert max(x1 - x0, y1 - y0) == pytest.approx(side)
    assert x0 >= freed[0] - 1e-9 and y0 >= freed[1] - 1e-9 and x1 <= freed[2] + 1e-9


def test_proportions_are_those_of_pixels_and_a_mean_of_ratios() -> None:
    wide, tall = np.zeros((50, 100, 3), np.uint8), np.zeros((100, 50, 3), np.uint8)
    half = Photo(image=wide, box_xyxy01=(0.0, 0.0, 0.5, 1.0))
    one = Reference(photos=(half,), class_word="mug")
    both = Reference(photos=(Photo(image=wide), Photo(image=tall)), class_word="mug")
    assert one.proportions == pytest.approx(1.0)
    assert both.proportions == pytest.approx(1.0)


def test_places_are_the_same_every_time_and_squares_within_the_picture() -> None:
    found, again = places(6, size=64, seed=3), places(6, size=64, seed=3)
    for place, other in zip(found, again, strict=True):
        assert place.freed_xyxy01 == other.freed_xyxy01 and (place.image == other.image).all()
        x0, y0, x1, y1 = place.freed_xyxy01
        assert x1 - x0 == pytest.approx(y1 - y0)
        assert min(x0, y0) >= 0 and max(x1, y1) <= 1
