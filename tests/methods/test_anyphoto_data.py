"""Proves what AnyPhoto learns from: rows of groups and the face bank become examples and requests,
squares hold every face (hypothesis), landmarks stay on their faces, and what is refused.

Needs nothing but the world.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import UserError
from insitu.methods import VALIDATION, data_of
from insitu.methods.anyphoto.data import SETS, Person, examples, requests, square
from insitu.records import Box, Image
from insitu.records.engines import BankFace, Face, Group, Lineage
from insitu.synthesis.people import WorldPeople

NOTHING = Lineage(sources=(), models=())
CROWD = WorldPeople(identities=12, size=96, seed=0, misnamed=0.0, shares=(0.2, 0.1))
SETTINGS = SimpleNamespace(faces=4)
WHITE = Image.from_array(np.full((2, 2), 255, np.uint8))


def a_face(identity: str, box: tuple[float, float, float, float]) -> Face:
    x0, y0, x1, y1 = box
    points = [
        v for u in (0.2, 0.8, 0.5, 0.3, 0.7) for v in (x0 + u * (x1 - x0), y0 + u * (y1 - y0))
    ]
    return Face(
        identity=identity, box=Box(x0=x0, y0=y0, x1=x1, y1=y1), landmarks=tuple(points),
        person=WHITE, score=1.0, similarity=1.0,
    )  # fmt: skip


def group(number: int) -> Group:
    photo = CROWD.photo(number)
    return Group(
        id=photo.id, image=Image.from_array(photo.image), prompt="people", split=photo.split,
        faces=tuple(a_face(name.identity, name.box_xyxy01) for name in photo.names),
        lineage=NOTHING,
    )  # fmt: skip


def bank_face(index: int, view: int) -> BankFace:
    points = (0.4, 0.4, 0.6, 0.4, 0.5, 0.5, 0.42, 0.6, 0.58, 0.6)
    return BankFace(
        id=f"{CROWD.name(index)}/{view}", identity=CROWD.name(index),
        image=Image.from_array(CROWD.reference(index, view)), box=Box(x0=0, y0=0, x1=1, y1=1),
        landmarks=points, embedding=(1.0,), split=CROWD.split(index), lineage=NOTHING,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> dict[str, Any]:
    faces = [bank_face(index, view) for index in range(12) for view in range(2)]
    return {"groups": [group(number) for number in range(12)], "faces": faces}


def test_rows_become_examples_with_their_own_faces_and_others(rows: dict[str, Any]) -> None:
    assert data_of("anyphoto").SETS == SETS == {"groups": Group, "faces": BankFace}
    photos = [row for row in rows["groups"] if row.split != "test"]
    assert {row.split for row in photos} == {"train", "validation"}
    made = list(examples(rows, SETTINGS, size=64, seed=0))
    assert [one.id for one in made] == [row.id for row in photos]
    for one, row in zip(made, photos, strict=True):
        assert one.image.shape == (64, 64, 3) and one.mask is None
        assert one.pool == (VALIDATION if row.split == "validation" else "groups")
        assert len(one.placements) == len(row.faces)
        for placement, face in zip(one.placements, row.faces, strict=True):
            assert isinstance(placement, Person)
            assert np.array_equal(placement.reference, row.image.array())
            assert np.ravel(placement.reference_landmarks_xy01) == pytest.approx(face.landmarks)
            bank = [other for other in rows["faces"] if other.identity == face.identity]
            assert len(placement.others) == len(bank) == 2
            for other, known in zip(placement.others, bank, strict=True):
                assert np.array_equal(other.image, known.image.array())
    assert next(examples(rows, SETTINGS, size=64, seed=0)).placements[0].box_xyxy01 == (
        made[0].placements[0].box_xyxy01
    )


def test_held_out_photos_are_asked_for_with_references_from_the_bank(rows: dict[str, Any]) -> None:
    held_out = [row for row in rows["groups"] if row.split == "validation"]
    asked = list(requests(rows, SETTINGS, size=64, seed=5, split=VALIDATION))
    assert len(asked) == len(held_out) > 0
    assert [request.seed for request in asked] == [5 + k for k in range(len(held_out))]
    for request, row in zip(asked, held_out, strict=True):
        assert request.prompt == row.prompt and request.image.shape == (64, 64, 3)
        for placement, face in zip(request.placements, row.faces, strict=True):
            first = next(other for other in rows["faces"] if other.identity == face.identity)
            assert np.array_equal(placement.reference, first.image.array())
            assert placement.landmarks_xy01 is not None


def test_what_cannot_be_learned_from_is_refused_whole(rows: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"photos show more than 1 faces.*anyphoto\.faces to"):
        list(examples(rows, SimpleNamespace(faces=1), size=64, seed=0))
    with pytest.raises(UserError, match="no picture of that identity"):
        list(requests({**rows, "faces": []}, SETTINGS, size=64, seed=0, split=VALIDATION))
    without = list(examples({**rows, "faces": []}, SETTINGS, size=64, seed=0))
    assert all(not p.others for one in without for p in one.placements)


corners = st.tuples(st.floats(0, 0.8), st.floats(0, 0.8), st.floats(0.02, 0.2))


@given(
    st.integers(20, 90), st.integers(20, 90), st.lists(corners, min_size=1, max_size=4),
    st.integers(0, 9),
)  # fmt: skip
def test_squares_hold_every_face_and_landmarks_stay_where_they_are(
    height: int, width: int, places: list[tuple[float, float, float]], seed: int
) -> None:
    photo = np.zeros((height, width, 3), np.uint8)
    faces = tuple(a_face(f"p{k}", (x, y, x + s, y + s)) for k, (x, y, s) in enumerate(places))
    row = Group(
        id="g", image=Image.from_array(photo), faces=faces, prompt="people", split="train",
        lineage=NOTHING,
    )  # fmt: skip
    window = square(row, photo, seed)
    for face in faces:
        box = np.array(face.box.xyxy01) * (width, height, width, height)
        assert (box[:2] >= (window.left, window.top)).all()
        assert (box[2:] <= (window.left + window.side, window.top + window.side)).all()
    if window.side == min(height, width):  # within the photo unless faces are too far apart
        assert window.left >= 0 and window.left + window.side <= width
        assert window.top >= 0 and window.top + window.side <= height
    one = next(examples({"groups": [row], "faces": []}, SETTINGS, size=32, seed=seed))
    for face, placement in zip(faces, one.placements, strict=True):
        back = np.array(placement.landmarks_xy01) * window.side + (window.left, window.top)
        assert np.allclose(np.ravel(back / (width, height)), face.landmarks)
