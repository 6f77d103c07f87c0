"""Proves background change against numpy, and the seam against loops and seams of any strength.

Needs no checkpoint.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from insitu.backbones.zoom import Window, box_mask
from insitu.errors import UserError
from insitu.evaluation.metrics import Case, Entity, Failure, summarize
from insitu.evaluation.metrics.edges import BackgroundChange, SeamVisibility, seam_visibility

SIDE = 40
BOX = (0.25, 0.25, 0.75, 0.75)
MASK = np.zeros((SIDE, SIDE), np.bool_)
MASK[10:30, 10:30] = True


def case(image: np.ndarray, source: np.ndarray, box: tuple[float, ...] = BOX) -> Case:
    return Case(image=image, source=source, entities=(Entity(box_xyxy01=box),))  # type: ignore[arg-type]


def test_background_change_is_what_differs_outside_of_the_masks() -> None:
    rng = np.random.default_rng(0)
    source, image = rng.integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
    outside = np.abs(image.astype(int) - source)[~MASK]
    for how, wanted in (("largest", outside.max()), ("mean", outside.mean())):
        assert BackgroundChange(how)([case(image, source)]).values == pytest.approx(wanted)
    kept = np.where(MASK[..., None], image, source)
    kept[0, 0, 1] = source[0, 0, 1] ^ 128  # one channel of one pixel
    found = [BackgroundChange(how)([case(kept, source)]).values[0] for how in ("largest", "mean")]
    assert found == pytest.approx([128, 128 / (3 * (~MASK).sum())])


def test_a_picture_of_another_size_has_failed_and_counts() -> None:
    source = np.zeros((SIDE, SIDE, 3), np.uint8)
    cases = [case(source, source), case(source[:20], source)]
    scores = BackgroundChange("mean")(cases)
    assert scores.reasons == ("", "the picture has 40 x 20 pixels, its source 40 x 40")
    assert summarize(scores).figure.value == 255 / 2
    assert isinstance(SeamVisibility()(cases).parts[1][0], Failure)
    with pytest.raises(UserError, match="cover the whole picture"):
        BackgroundChange("mean")([case(source, source, (0, 0, 1, 1))])
    with pytest.raises(UserError, match="without source pictures"):
        BackgroundChange("mean")([Case(image=source, entities=cases[0].entities)])


def by_loops(image: np.ndarray, mask: np.ndarray, edge_px: int, off_px: int) -> float | None:
    """The definition, pixel by pixel."""
    across, beside = [], []
    for picture, inside in ((image, mask), (image.transpose(1, 0, 2), mask.T)):
        height, width = inside.shape
        for y in range(height):
            for x in range(width - 1):
                if inside[y, x] == inside[y, x + 1]:
                    continue
                for side in (-1, 1):
                    for away in range(0 if side > 0 else 1, edge_px + off_px + 1):
                        k = x + side * away
                        if not 0 <= k < width - 1:
                            break
                        if away and inside[y, k] != inside[y, k + 1]:
                            break
                        step = np.abs(picture[y, k + 1].astype(float) - picture[y, k]).mean()
                        (across if away <= edge_px else beside).append(step)
    if not across or not beside:
        return None
    j, b = np.mean(across), np.mean(beside)
    return float((j - b) / (j + b + 1))


@given(
    arrays.arrays(np.uint8, (9, 11, 3)), arrays.arrays(np.bool_, (9, 11)),
    st.integers(0, 2), st.integers(1, 3),
)  # fmt: skip
def test_the_seam_is_what_its_definition_says(
    image: np.ndarray, mask: np.ndarray, edge_px: int, off_px: int
) -> None:
    wanted = by_loops(image, mask, edge_px, off_px)
    if wanted is None:
        with pytest.raises(UserError, match="without mask edges"):
            seam_visibility(image, mask, edge_px=edge_px, off_px=off_px)
    else:
        found = seam_visibility(image, mask, edge_px=edge_px, off_px=off_px)
        assert found == pytest.approx(wanted) and -1 < found < 1


@pytest.mark.parametrize("step", [0, 1, 5, 60, 255])
def test_a_step_in_a_flat_picture_has_a_closed_form(step: int) -> None:
    """One of five gradients at each crossing is the step, all others are 0."""
    image = np.where(MASK[..., None], np.full(3, step), 0).astype(np.uint8)
    assert seam_visibility(image, MASK) == pytest.approx((step / 5) / (step / 5 + 1))


def test_seams_of_rising_strength_score_rising_values_also_on_texture() -> None:
    rng = np.random.default_rng(0)
    texture = rng.integers(60, 100, (SIDE, SIDE, 3))
    found = [
        seam_visibility((texture + MASK[..., None] * step).astype(np.uint8), MASK)
        for step in (0, 10, 30, 60, 120)
    ]
    assert abs(found[0]) < 0.05
    assert all(later > earlier + 0.005 for earlier, later in pairwise(found))
    assert found[-1] > 0.3


def test_a_slope_and_the_contents_own_contours_make_no_seam() -> None:
    slope = np.repeat(np.arange(SIDE)[None, :, None] * 5, SIDE, axis=0).repeat(3, axis=2)
    assert seam_visibility(slope.astype(np.uint8), MASK) == pytest.approx(0, abs=1e-9)
    thing = np.zeros((SIDE, SIDE, 3), np.uint8)
    thing[17:23, 17:23] = 200  # far from the edge
    assert seam_visibility(thing, MASK) == 0
    # A mask that reaches the picture's border has no edge there.
    half = np.arange(SIDE)[None].repeat(SIDE, axis=0) < 20
    assert seam_visibility(
        np.where(half, 0, 90)[..., None].repeat(3, 2).astype(np.uint8), half
    ) == (pytest.approx(18 / 19))


def test_pasting_softly_shows_less_than_pasting_hard() -> None:
    source = np.full((96, 96, 3), 90, np.uint8)
    window = Window(left=0, top=0, side=96)
    mask = box_mask(BOX, source)
    filling = np.full((96, 96, 3), 150, np.uint8)
    soft = window.paste(source, filling, mask)
    hard = np.where(mask[..., None] > 0, filling, source)
    seams = SeamVisibility()([case(soft, source), case(hard, source), case(source, source)]).values
    assert seams[2] == 0 < seams[0] < seams[1]
