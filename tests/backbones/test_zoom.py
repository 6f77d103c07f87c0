"""Proves that painting through a window changes nothing outside of the mask.

Boxes, photos and windows are drawn with hypothesis. Needs no checkpoint.
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insitu.backbones.zoom import Window, box_mask, require_box
from insitu.errors import UserError

edge = st.floats(0, 1)
sides = st.integers(16, 200)


def make_photo(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), np.uint8)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    photo = make_photo(draw(sides), draw(sides))
    x0, x1 = sorted((draw(edge), draw(edge)))
    y0, y1 = sorted((draw(edge), draw(edge)))
    assume((x1 - x0) * photo.shape[1] > 4 and (y1 - y0) * photo.shape[0] > 4)
    return photo, (x0, y0, x1, y1)


@given(case=boxed(), context=st.floats(0, 2))
@settings(max_examples=150)
def test_a_window_holds_its_box_and_stays_inside_where_it_can(case, context: float) -> None:
    photo, box = case
    height, width = photo.shape[:2]
    left, top, right, bottom = require_box(box, photo)
    window = Window.around(box, photo, context=context)
    assert window.side >= max(right - left, bottom - top)
    if window.side <= width:
        assert 0 <= window.left <= left and right <= window.left + window.side <= width
    if window.side <= height:
        assert 0 <= window.top <= top and bottom <= window.top + window.side <= height


@given(case=boxed(), context=st.floats(0, 2), size=st.sampled_from([32, 64]))
@settings(max_examples=100)
def test_outside_of_the_mask_every_bit_stays(case, context: float, size: int) -> None:
    photo, box = case
    window, mask = Window.around(box, photo, context=context), box_mask(box, photo)
    filling = np.full((size, size, 3), 255, np.uint8)
    pasted = window.paste(photo, filling, mask)
    assert pasted.shape == photo.shape and pasted.dtype == np.uint8
    assert np.array_equal(pasted[mask == 0], photo[mask == 0])
    left, top, right, bottom = require_box(box, photo)
    assert pasted[(top + bottom) // 2, (left + right) // 2].min() >= 127


@given(case=boxed(), context=st.floats(0, 2))
@settings(max_examples=50)
def test_what_was_cut_at_full_size_is_pasted_back_as_it_was(case, context: float) -> None:
    photo, box = case
    window = Window.around(box, photo, context=context)
    same = window.cut(photo, window.side)
    assert np.array_equal(window.paste(photo, same, box_mask(box, photo)), photo)


def test_a_thin_mask_in_a_wide_window_is_filled_in_its_middle() -> None:
    photo = np.zeros((86, 88, 3), np.uint8)
    for box in ((0.0, 0.9375, 1.0, 1.0), (0.0, 0.45, 1.0, 0.52)):
        window, mask = Window.around(box, photo, context=2.0), box_mask(box, photo)
        pasted = window.paste(photo, np.full((32, 32, 3), 255, np.uint8), mask)
        assert pasted[mask > 0].max() == 255 and not pasted[mask == 0].any()


def test_the_filling_fades_in_at_the_masks_edge() -> None:
    photo = np.zeros((96, 96, 3), np.uint8)
    box = (0.25, 0.25, 0.75, 0.75)
    window = Window.around(box, photo, context=0.5)
    pasted = window.paste(photo, np.full((64, 64, 3), 200, np.uint8), box_mask(box, photo))
    row = pasted[48, :, 0].astype(int)
    assert row[23] == 0 and 0 < row[24] < 200 and row[48] == 200
    assert (np.diff(row[20:40]) >= 0).all()


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((0.2, 0.2, 1.2, 0.8), "within 0..1"),
        ((0.8, 0.2, 0.2, 0.8), "within 0..1"),
        ((float("nan"), 0, 1, 1), "within 0..1"),
        ((0.5, 0.5, 0.505, 0.9), "nothing can be painted"),
    ],
)
def test_a_box_that_cannot_be_painted_is_refused(box: tuple[float, ...], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        Window.around(box, make_photo(64, 64), context=0.2)
