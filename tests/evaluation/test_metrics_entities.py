"""Proves which detection answers which entity, against brute force, and the figures of places.

Detections are written by hand; needs no checkpoint.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import UserError
from insitu.evaluation.metrics import Case, Entity, Failure, summarize
from insitu.evaluation.metrics.entities import (
    BoxIoU,
    EntityFinder,
    EntityRecall,
    LocationError,
    MaskIoU,
    assign,
    distance,
    mask_iou,
)
from insitu.perception.detector import Detection

WIDE = np.zeros((100, 200, 3), np.uint8)
Box = tuple[float, float, float, float]


class Written:
    """Answers with the detections given for each picture, by its first pixel."""

    def __init__(self, *answers: Sequence[Detection]) -> None:
        self.answers, self.asked = answers, 0

    def detect(
        self,
        images: Sequence[np.ndarray],
        queries: Sequence[str],
        *,
        threshold: float,
        overlap: float,
    ) -> list[list[Detection]]:
        self.asked += len(images)
        return [
            [d for d in self.answers[i[0, 0, 0]] if d.query in queries and d.score >= threshold]
            for i in images
        ]


def finder(*answers: Sequence[Detection]) -> EntityFinder:
    return EntityFinder(Written(*answers), threshold=0.3)  # type: ignore[arg-type]


def picture(n: int) -> np.ndarray:
    image = WIDE.copy()
    image[0, 0] = n
    return image


def seen(query: str, box: Box, score: float = 0.9) -> Detection:
    return Detection(query=query, score=score, box_xyxy01=box)


SHARE = st.integers(0, 8).map(lambda n: n / 10)
BOXES = st.tuples(SHARE, SHARE).map(lambda p: (p[0], p[1], p[0] + 0.2, p[1] + 0.2))
TEXTS = st.sampled_from(["a mug", "a cat"])


@given(
    st.lists(st.tuples(TEXTS, BOXES), min_size=1, max_size=3),
    st.lists(st.tuples(TEXTS, BOXES), max_size=4),
)
def test_as_many_as_possible_are_found_and_then_the_nearest(
    asked: list[tuple[str, Box]], shown: list[tuple[str, Box]]
) -> None:
    entities = [Entity(box_xyxy01=box, text=text) for text, box in asked]
    detections = [seen(text, box, 0.9 - 0.1 * n) for n, (text, box) in enumerate(shown)]
    found = assign(entities, detections, WIDE, overlap=2.0)  # no two boxes are one thing

    def worth(answers: Sequence[Detection | None]) -> tuple[int, float]:
        pairs = [(d, e) for d, e in zip(answers, entities, strict=True) if d and d.query == e.text]
        off = sum(distance(d.box_xyxy01, e.box_xyxy01, WIDE) for d, e in pairs)
        return len(pairs), -off

    pool = [*detections, *[None] * len(entities)]
    best = max(worth(answers) for answers in permutations(pool, len(entities)))
    assert worth(found) == (best[0], pytest.approx(best[1]))
    given_out = [id(d) for d in found if d is not None]
    assert len(set(given_out)) == len(given_out) == best[0]


def test_one_thing_never_answers_two_entities() -> None:
    """The detector takes the one mug for both; the second text fits a little worse."""
    box, close = (0.1, 0.1, 0.5, 0.5), (0.12, 0.1, 0.5, 0.5)
    entities = (
        Entity(box_xyxy01=(0.6, 0.1, 1.0, 0.5), text="a blue mug"),
        Entity(box_xyxy01=box, text="a red mug"),
    )
    case = Case(image=picture(0), entities=entities)
    reader = finder([seen("a red mug", box), seen("a blue mug", close, 0.8)])
    assert EntityRecall(reader)([case]).parts == ((0.0, 1.0),)
    error = LocationError(reader)([case])
    assert error.parts[0] == (Failure("a blue mug was not found"), 0.0)
    assert error.values == pytest.approx([1.0]) and error.reasons == ("a blue mug was not found",)


def test_errors_are_in_diagonals_of_the_asked_box_and_end_at_two() -> None:
    """The asked box is 30 x 40 pixels, so its diagonal is 50."""
    asked = (0.1, 0.1, 0.25, 0.5)
    moved = [(0.0, 0.0), (0.15, 0.4), (0.7, 0.0)]  # by 0; (30, 40) = 50; (140, 0) pixels
    answers = [[seen("a mug", tuple(np.add(asked, (x, y, x, y))))] for x, y in moved]
    cases = [
        Case(image=picture(n), entities=(Entity(box_xyxy01=asked, text="a mug"),)) for n in range(4)
    ]
    reader = finder(*answers, [seen("a mug", asked, 0.2), seen("a cat", asked)])
    scores = LocationError(reader)(cases)
    assert scores.values == pytest.approx([0, 1, 2, 2], abs=1e-6)
    assert scores.failed.tolist() == [False, False, False, True]
    summary = summarize(scores)
    assert summary.figure.value == pytest.approx(5 / 4) and summary.measured_share == 3 / 4
    assert EntityRecall(reader)(cases).values.tolist() == [1, 1, 1, 0]
    assert BoxIoU(reader)(cases).values == pytest.approx([1, 0, 0, 0], abs=1e-6)
    assert reader.detector.asked == 4  # type: ignore[attr-defined]


class WholeBox:
    """A segmenter for which the thing is its box."""

    name = "whole box"

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Box]) -> list[np.ndarray]:
        masks = []
        for image, box in zip(images, boxes, strict=True):
            height, width = image.shape[:2]
            mask = np.zeros((height, width), np.bool_)
            x0, y0, x1, y1 = np.rint(np.array(box) * [width, height, width, height]).astype(int)
            mask[y0:y1, x0:x1] = True
            masks.append(mask)
        return masks


def test_mask_iou_is_of_the_found_things_mask_with_the_asked_one() -> None:
    asked = np.zeros((100, 200), np.bool_)
    asked[:50, :100] = True  # 5000 pixels
    box = (0.0, 0.0, 0.25, 0.5)  # 2500 of them
    cases = [
        Case(image=picture(n), entities=(Entity(box_xyxy01=box, mask_HW=asked, text="a mug"),))
        for n in range(2)
    ]
    scores = MaskIoU(finder([seen("a mug", box)], []), WholeBox())(cases)
    assert scores.values == pytest.approx([0.5, 0]) and scores.failures == 1
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 30, 30)) < 0.4
    shared = len({*np.flatnonzero(one)} & {*np.flatnonzero(other)})
    assert mask_iou(one, other) == shared / len({*np.flatnonzero(one)} | {*np.flatnonzero(other)})
    with pytest.raises(UserError, match="without masks"):
        MaskIoU(finder([seen("a mug", box)]), WholeBox())(
            [Case(image=picture(0), entities=(Entity(box_xyxy01=box, text="a mug"),))]
        )


def test_an_entity_without_a_text_is_refused() -> None:
    with pytest.raises(UserError, match="without texts"):
        EntityRecall(finder([]))(
            [Case(image=picture(0), entities=(Entity(box_xyxy01=(0, 0, 1, 1)),))]
        )
