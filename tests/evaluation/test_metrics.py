"""Proves that failures stay in means as the worst value, and that intervals respect nesting.

Needs no checkpoint.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.evaluation.comparison import compare
from insitu.evaluation.metrics import (
    Case,
    Entity,
    Failure,
    Parts,
    Photo,
    Scale,
    Scores,
    score,
    summarize,
)
from insitu.evaluation.metrics.cases import Remembered, asked_mask

GREY = np.full((10, 20, 3), 128, np.uint8)
UP = Scale(name="likeness", low=-1, high=1, higher_is_better=True, unit="cosine")
DOWN = Scale(name="error", low=0, high=2, higher_is_better=False, unit="diagonals")


def brightness(cases: list[Case]) -> list[Parts]:
    return [(float(case.picture.mean()) / 255,) for case in cases]


def test_a_failure_is_the_worst_value_in_the_mean_and_counted_beside_it() -> None:
    parts: tuple[Parts, ...] = ((0.5,), (Failure("no face"),), (0.9, Failure("cut off")))
    up = Scores(scale=UP, parts=parts)
    assert up.values.tolist() == pytest.approx([0.5, -1.0, (0.9 - 1) / 2])
    assert up.reasons == ("", "no face", "cut off") and up.failed.tolist() == [False, True, True]
    summary = summarize(up)
    assert summary.figure.value == pytest.approx((0.5 - 1 - 0.05) / 3)
    assert (summary.failed, summary.count, summary.measured_share) == (2, 4, 0.5)
    assert summarize(Scores(scale=DOWN, parts=parts)).figure.value == pytest.approx(
        (0.5 + 2 + 1.45) / 3
    )


def test_a_case_without_a_picture_fails_in_every_entity() -> None:
    box = Entity(box_xyxy01=(0, 0, 1, 1))
    lost = Case(image=None, failure="out of memory", entities=(box, box))
    scores = score(UP, [lost, Case(image=GREY)], brightness, each_entity=True)
    assert scores.parts == ((Failure("out of memory"),) * 2, (128 / 255,))
    assert score(UP, [lost], brightness).parts == ((Failure("out of memory"),),)
    with pytest.raises(UserError, match="No case was given to likeness"):
        score(UP, [], brightness)
    with pytest.raises(ValueError, match="either a picture or a reason"):
        Case(image=None)
    with pytest.raises(ValueError, match="either a picture or a reason"):
        Case(image=GREY, failure="but why")


@pytest.mark.parametrize("value", [float("nan"), 1.1, -1.1, None])
def test_what_is_no_value_of_the_scale_is_no_score(value: float | None) -> None:
    with pytest.raises(ValueError, match="likeness of a case is"):
        Scores(scale=UP, parts=((0.5,), () if value is None else (value,)))


def test_nested_cases_get_the_nested_interval() -> None:
    rng = np.random.default_rng(0)
    values = np.clip(rng.normal(0, 0.3, (6, 1, 1)) + rng.normal(0, 0.02, (6, 5, 4)), -1, 1)
    scores = Scores(scale=UP, parts=tuple((float(v),) for v in values.ravel()))
    plain, nested = summarize(scores).figure, summarize(scores, nested=(6, 5, 4)).figure
    assert plain.value == pytest.approx(values.mean()) == nested.value
    assert nested.high - nested.low > 2 * (plain.high - plain.low)
    first = compare(values, np.zeros_like(values)).first
    assert (nested.low, nested.high) == pytest.approx((first.low, first.high), abs=0.02)
    with pytest.raises(ValueError, match="120 cases are not 6 x 5 x 5"):
        summarize(scores, nested=(6, 5, 5))


def test_a_model_is_asked_once_for_what_it_is_asked_again() -> None:
    asked: list[list[Photo]] = []

    def answer(photos: list[Photo]) -> Sequence[float]:
        asked.append(photos)
        return [float(photo.image.mean()) for photo in photos]

    one, other = Photo(image=GREY), Photo(image=GREY // 2)
    remembered = Remembered(answer)
    assert remembered([one, other, one]) == [128, 64, 128] == remembered([one, other, one])
    assert remembered([other]) == [64]
    assert asked == [[one, other]]
    assert remembered([one]) == [128] and asked == [[one, other], [one]]


def test_the_asked_mask_is_the_union_of_masks_and_boxes_in_whole_pixels() -> None:
    mask = np.zeros((10, 20), np.bool_)
    mask[0, :3] = True
    entities = (
        Entity(box_xyxy01=(0.5, 0.5, 1, 1)),
        Entity(box_xyxy01=(0, 0, 1, 1), mask_HW=mask),
    )
    wanted = mask.copy()
    wanted[5:, 10:] = True
    assert (asked_mask(Case(image=GREY, entities=entities), GREY) == wanted).all()
    with pytest.raises(UserError, match="A mask of 20 x 10 pixels was given with a picture of 20"):
        asked_mask(Case(image=GREY, entities=entities), np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(UserError, match="without entities"):
        asked_mask(Case(image=GREY), GREY)
