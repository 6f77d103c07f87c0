"""Proves face metrics on written embeddings: the pairing by brute force, the rest by hand.

Needs no checkpoint.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from insitu.errors import UserError
from insitu.evaluation.metrics import Case, Entity, Failure, Photo, summarize
from insitu.evaluation.metrics.faces import (
    FaceCopyPaste,
    FaceFound,
    FaceLikeness,
    FaceReader,
    pair,
)
from insitu.perception.face_finder import FoundFace

ANY = (0.0, 0.0, 1.0, 1.0)


class Written:
    """Finds the faces written for each picture, by its first pixel."""

    name = "written faces"

    def __init__(self) -> None:
        self.pictures: list[list[FoundFace]] = []
        self.asked = 0

    def picture(self, *faces: np.ndarray, boxes: Sequence[tuple[float, ...]] = ()) -> np.ndarray:
        """A picture in which these faces are found."""
        self.pictures.append(
            [
                FoundFace(
                    score=0.9,
                    box_xyxy01=boxes[n] if boxes else ANY,  # type: ignore[arg-type]
                    landmarks_xy01=np.zeros((5, 2), np.float32),
                    embedding=face.astype(np.float32),
                )
                for n, face in enumerate(faces)
            ]
        )
        return np.full((4, 4, 3), len(self.pictures) - 1, np.uint8)

    def find(self, images: Sequence[np.ndarray]) -> list[list[FoundFace]]:
        self.asked += len(images)
        return [self.pictures[image[0, 0, 0]] for image in images]


def unit(*degrees: float) -> np.ndarray:
    """Embeddings on a circle: angles between them are known."""
    angles = np.deg2rad(degrees)
    return np.squeeze(np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1))


def person(finder: Written, truth: float | None, *references: float) -> Entity:
    return Entity(
        box_xyxy01=ANY,
        truth=None if truth is None else Photo(image=finder.picture(unit(truth))),
        references=tuple(Photo(image=finder.picture(unit(r))) for r in references),
    )


LIKENESS = arrays.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(0, 4)), elements=st.floats(-1, 1)
)


@given(LIKENESS)
def test_people_get_the_faces_with_the_greatest_sum_of_likenesses(likeness: np.ndarray) -> None:
    people, faces = likeness.shape
    found = pair(likeness)
    kept = [f for f in found if f is not None]
    assert len(kept) == len(set(kept)) == min(people, faces)
    # A face worth 9 that every spare person takes, so that sums of equally many are compared.
    worth = np.concatenate([likeness + 9, np.zeros((people, people))], axis=1)
    best = max(
        sum(worth[i, f] for i, f in enumerate(order))
        for order in permutations(range(people + faces), people)
    )
    mine = sum(likeness[i, f] + 9 for i, f in enumerate(found) if f is not None)
    assert mine == pytest.approx(best)


def test_likeness_and_copying_are_known_from_the_angles() -> None:
    finder = Written()
    reader = FaceReader(finder)
    one = person(finder, 0, 60)
    cases = [Case(image=finder.picture(unit(at)), entities=(one,)) for at in (0, 60, 20, 40, -30)]
    to_truth, to_reference = FaceLikeness(reader, "truth"), FaceLikeness(reader, "reference")
    cosines = [np.cos(np.deg2rad(at)) for at in (0, 60, 20, 40, 30)]
    assert to_truth(cases).values == pytest.approx(cosines, abs=1e-6)
    cosines = [np.cos(np.deg2rad(at)) for at in (60, 0, 40, 20, 90)]
    assert to_reference(cases).values == pytest.approx(cosines, abs=1e-6)
    wanted = [-1, 1, (20 - 40) / 60, (40 - 20) / 60, (30 - 90) / 60]
    assert FaceCopyPaste(reader)(cases).values == pytest.approx(wanted, abs=1e-5)
    assert finder.asked == 5 + 1 + 1 + 1  # the truth again, after only the reference was asked for


def test_several_references_count_alike() -> None:
    finder = Written()
    case = Case(image=finder.picture(unit(0)), entities=(person(finder, None, 60, 90),))
    reader = FaceReader(finder)
    assert FaceLikeness(reader, "reference")([case]).values == pytest.approx(0.25, abs=1e-6)
    with pytest.raises(UserError, match="without true pictures"):
        FaceLikeness(reader, "truth")([case])


def test_people_are_told_apart_whatever_order_their_faces_are_found_in() -> None:
    finder = Written()
    entities = (person(finder, 0, 10), person(finder, 90, 80))
    case = Case(image=finder.picture(unit(85), unit(170), unit(5)), entities=entities)
    (found,) = FaceLikeness(FaceReader(finder), "truth")([case]).parts
    assert found == pytest.approx([np.cos(np.deg2rad(5))] * 2, abs=1e-6)


def test_a_missing_face_is_in_every_mean_with_the_detection_rate_beside_it() -> None:
    finder = Written()
    reader = FaceReader(finder)
    entities = (person(finder, 0, 60), person(finder, 90, 120))
    cases = [
        Case(image=finder.picture(unit(0), unit(90)), entities=entities),
        Case(image=finder.picture(unit(90)), entities=entities),
        Case(image=finder.picture(), entities=entities),
    ]
    for metric, perfect, worst in (
        (FaceLikeness(reader, "truth"), 1, -1),
        (FaceCopyPaste(reader), -1, 1),
        (FaceFound(reader), 1, 0),
    ):
        scores = metric(cases)
        assert scores.values == pytest.approx([perfect, (perfect + worst) / 2, worst], abs=1e-5)
        if not isinstance(metric, FaceFound):
            assert summarize(scores).measured_share == pytest.approx(3 / 6)
            assert scores.parts[1][0] == Failure("no face was left for it, 1 found for 2 people")
    assert summarize(FaceFound(reader)(cases)).figure.value == pytest.approx(3 / 6)


def test_a_photo_without_the_face_it_is_to_show_is_refused() -> None:
    finder = Written()
    left, right = (0.0, 0.0, 0.4, 0.4), (0.6, 0.6, 1.0, 1.0)
    group = finder.picture(unit(0), unit(90), boxes=[left, right])
    reader = FaceReader(finder)
    found = reader.photos(
        [Photo(image=group, box_xyxy01=right), Photo(image=group, box_xyxy01=left)]
    )
    np.testing.assert_allclose(np.stack(found), [unit(90), unit(0)], atol=1e-6)
    with pytest.raises(UserError, match=r"finds 2 faces .* the best overlap is 0\.00"):
        reader.photos([Photo(image=group, box_xyxy01=(0.45, 0.45, 0.55, 0.55))])
