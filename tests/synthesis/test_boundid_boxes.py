"""Proves BoundID's boxes and places: boxes against pixels that are counted, places against every
choice. Needs nothing.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.perception.detector import Detection
from insitu.records import Box
from insitu.synthesis import boundid
from insitu.synthesis.boundid import _Place, assign
from insitu.synthesis.boxes import blank, covered, enlarge, overlap
from tests.synthesis.some_pairs import GRID, Corners


def spans(step: float = 0.0) -> st.SearchStrategy[tuple[float, float]]:
    """Two ends in 0..1, in their order and apart."""
    ends = st.floats(0, 1) if not step else st.integers(0, GRID).map(lambda n: n * step)
    return st.tuples(ends, ends).map(sorted).map(tuple).filter(lambda s: s[1] - s[0] > 1e-3)


boxes = st.builds(lambda x, y: Box(x0=x[0], y0=y[0], x1=x[1], y1=y[1]), spans(), spans())
on_grid: st.SearchStrategy[Corners] = st.builds(
    lambda x, y: (x[0], y[0], x[1], y[1]), spans(1 / GRID), spans(1 / GRID)
)
growths = st.floats(0, 3)
ways = st.sampled_from(["side", "edge"])


@given(boxes, growths, growths, ways)
def test_a_grown_box_holds_the_box_and_every_less_grown_one_inside_the_picture(
    box: Box, growth: float, other: float, grow: Literal["side", "edge"]
) -> None:
    less, more = (enlarge(box, g, grow) for g in sorted((growth, other)))
    for inner, outer in ((box, less), (less, more)):
        assert 0 <= outer.x0 <= inner.x0 < inner.x1 <= outer.x1 <= 1
        assert 0 <= outer.y0 <= inner.y0 < inner.y1 <= outer.y1 <= 1


@given(boxes, growths)
def test_side_and_edge_grow_as_they_say(box: Box, growth: float) -> None:
    wide, high = box.x1 - box.x0, box.y1 - box.y0
    by_side, by_edge = enlarge(box, growth, "side"), enlarge(box, growth, "edge")
    for grown, times in ((by_side, 1 + growth), (by_edge, 1 + 2 * growth)):
        if grown.x0 > 0 and grown.x1 < 1:
            assert grown.x1 - grown.x0 == pytest.approx(wide * times)
            assert grown.x0 + grown.x1 == pytest.approx(box.x0 + box.x1)
        if grown.y0 > 0 and grown.y1 < 1:
            assert grown.y1 - grown.y0 == pytest.approx(high * times)
    twice = enlarge(box, 2 * growth, "side")
    assert twice.xyxy01 == pytest.approx(by_edge.xyxy01)


@given(st.lists(boxes, max_size=3), st.integers(1, 40), st.integers(1, 40), st.integers(0, 255))
def test_blanked_are_the_pixels_that_a_box_touches_and_no_other(
    own: list[Box], height: int, width: int, fill: int
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    masked = blank(image, own, fill)
    assert np.array_equal(image, before)
    for row, column in itertools.product(range(height), range(width)):
        # By how much the pixel's square and a box share, across and down, in pixels.
        shared = [
            min(
                min(column + 1, b.x1 * width) - max(column, b.x0 * width),
                min(row + 1, b.y1 * height) - max(row, b.y0 * height),
            )
            for b in own
        ]
        if max(shared, default=-1.0) > 1e-9:
            assert (masked[row, column] == fill).all()
        elif max(shared, default=-1.0) < -1e-9:
            assert (masked[row, column] == image[row, column]).all()


def cells(box: Corners) -> np.ndarray:
    """The squares of the grid that a box covers, bool [GRID, GRID]."""
    x0, y0, x1, y1 = (round(v * GRID) for v in box)
    found = np.zeros((GRID, GRID), bool)
    found[y0:y1, x0:x1] = True
    return found


@given(on_grid, st.lists(on_grid, max_size=3))
def test_overlap_and_covered_are_what_counting_squares_tells(
    box: Corners, others: list[Corners]
) -> None:
    own = cells(box)
    shares = [(own & cells(other)).sum() / own.sum() for other in others]
    assert covered(box, others) == pytest.approx(max(shares, default=0.0), abs=1e-9)
    for other in others:
        wanted = (own & cells(other)).sum() / (own | cells(other)).sum()
        assert overlap(box, other) == pytest.approx(wanted, abs=1e-9)
        assert overlap(other, box) == overlap(box, other)
    assert overlap(box, box) == pytest.approx(1)


places = st.builds(
    lambda score, similarity, box: _Place(
        Detection(query="a mug", score=score, box_xyxy01=box), similarity
    ),
    st.floats(0.02, 1),
    st.floats(-1, 1),
    on_grid,
)


def value(choice: Sequence[_Place | None]) -> float:
    return sum(p.detection.score * (1 + p.similarity) for p in choice if p is not None)


def shared(choice: Sequence[_Place | None]) -> bool:
    taken = [cells(p.detection.box_xyxy01) for p in choice if p is not None]
    return any(
        (a & b).sum() / (a | b).sum() > boundid.SAME_PLACE + 1e-9
        for a, b in itertools.combinations(taken, 2)
    )


@given(st.lists(st.lists(places, max_size=3), min_size=1, max_size=3))
def test_no_two_identities_get_one_place_and_no_better_choice_is_left(
    proposals: list[list[_Place]],
) -> None:
    chosen = assign(proposals)
    assert len(chosen) == len(proposals)
    assert all(p is None or p in own for p, own in zip(chosen, proposals, strict=True))
    assert not shared(chosen)
    # A choice for each identity is a number from 0, none, to 3: counted through like digits.
    best = 0.0
    for digits in np.ndindex(*(len(own) + 1 for own in proposals)):
        choice = [own[d - 1] if d else None for own, d in zip(proposals, digits, strict=True)]
        best = max(best, 0.0 if shared(choice) else value(choice))
    assert value(chosen) == pytest.approx(best)


def test_two_identities_of_one_category_part_by_likeness() -> None:
    left, right = (
        Detection(query="a mug", score=0.5, box_xyxy01=box)
        for box in ((0.0, 0.0, 0.4, 1.0), (0.6, 0.0, 1.0, 1.0))
    )
    first = [_Place(left, 0.6), _Place(right, 0.9)]
    second = [_Place(left, 0.5), _Place(right, 0.95)]
    chosen = assign([first, second])
    assert [p.detection for p in chosen if p] == [left, right]  # .6 + .95 is over .9 + .5
