"""Proves how faces get names, and what regularization pictures are asked for. Needs no model."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu import world
from insitu.perception.face_finder import FoundFace
from insitu.synthesis import regularization, subjects
from insitu.synthesis.groups import FILTERS, Groups, Rules, match
from insitu.synthesis.people import Named, WorldPeople

UNIT = np.eye(4, dtype=np.float32)


def face(place: int, who: int, score: float = 0.9) -> FoundFace:
    """A face in the place-th quarter of the picture that looks like the who-th identity."""
    left = place / 4
    return FoundFace(
        score=score, box_xyxy01=(left, 0.2, left + 0.2, 0.6),
        landmarks_xy01=np.full((5, 2), 0.5, np.float32), embedding=UNIT[who],
    )  # fmt: skip


def named(place: int, who: int) -> Named:
    left = place / 4
    return Named(identity=f"p{who}", box_xyxy01=(left + 0.02, 0.2, left + 0.2, 0.6))


BANK = {f"p{k}": UNIT[k : k + 1] for k in range(4)}


@given(st.permutations(range(4)), st.permutations(range(4)))
def test_every_face_gets_the_name_at_its_place_in_any_order(
    faces: list[int], names: list[int]
) -> None:
    found = match([face(k, k) for k in faces], [named(k, k) for k in names], BANK, 0.5)
    assert [m.identity for m in found] == ["p0", "p1", "p2", "p3"]
    assert all(m.cosine == 1 and m.score == pytest.approx(0.95) for m in found)


def test_similarity_decides_where_boxes_overlap_both_and_no_name_is_used_twice() -> None:
    wide = Named(identity="p0", box_xyxy01=(0.0, 0.2, 0.5, 0.6))
    also = Named(identity="p1", box_xyxy01=(0.0, 0.2, 0.5, 0.6))
    found = match([face(0, 1), face(1, 0)], [wide, also], BANK, 0.5)
    assert [m.identity for m in found] == ["p1", "p0"]
    assert len(match([face(0, 0), face(0, 0)], [named(0, 0)], BANK, 0.5)) == 1


def test_a_wrong_name_scores_low_and_a_stranger_lowest() -> None:
    right, wrong = (match([face(0, 0)], [named(0, who)], BANK, 0.5)[0] for who in (0, 1))
    assert wrong.cosine == 0 and wrong.score == pytest.approx(right.score - 0.25)
    (unknown,) = match(
        [face(0, 0)], [Named(identity="nobody", box_xyxy01=(0, 0.2, 0.2, 0.6))], BANK, 0.5
    )
    assert unknown.cosine == -1
    assert match([face(0, 0)], [named(3, 0)], BANK, 0.5) == []


def groups(found: list[FoundFace], **rules: float) -> Groups:
    """The pipeline with stand-ins for its models: faces as given, whole boxes as masks."""
    asked = {"box_weight": 0.5, "match": 0.6, "similarity": 0.5, "detection": 0.2} | rules
    return Groups(
        finder=SimpleNamespace(name="faces", find=lambda images: [found for _ in images]),
        detector=SimpleNamespace(detect=lambda images, queries, threshold: [[] for _ in images]),
        segmenter=SimpleNamespace(
            name="boxes", segment=lambda images, boxes: [np.ones((64, 64), bool) for _ in boxes]
        ),
        captioner=SimpleNamespace(
            regional=lambda crops, words: ["a person" for _ in crops],
            whole=lambda images, parts: [" and ".join(own) for own in parts],
        ),
        bank=BANK, rules=Rules(**asked), names=("detector",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "filter"),
    [
        ([face(0, 0), face(1, 1)], None),
        ([face(0, 0)], FILTERS[0]),
        ([face(0, 0), face(1, 2)], FILTERS[2]),
    ],
)
def test_rows_with_a_missing_or_poor_reference_are_refused(
    found: list[FoundFace], filter: str | None
) -> None:
    photo = SimpleNamespace(
        id="g", image=np.zeros((64, 64, 3), np.uint8), names=(named(0, 0), named(1, 1)),
        source="test", split="train",
    )  # fmt: skip
    (verdict,) = groups(found)([photo])  # type: ignore[list-item]
    assert verdict.filter == filter
    if filter is None:
        assert [f.identity for f in verdict.record.faces] == ["p0", "p1"]
        assert verdict.record.prompt == "a person and a person"


def test_the_worlds_photos_name_who_is_there_except_for_the_planted_errors() -> None:
    people = WorldPeople(identities=12, size=64, seed=0, misnamed=0.5, shares=(0.2, 0.2))
    photos = [people.photo(number) for number in range(40)]
    wrong = [photo for photo in photos if photo.misnamed is not None]
    assert 8 < len(wrong) < 32
    for photo in photos:
        names = [name.identity for name in photo.names]
        assert len(set(names)) == len(names)
        assert {people.split(int(name.split("-")[-1])) for name in names} == {photo.split}
    assert (people.photo(3).image == photos[3].image).all()


def photos() -> list[subjects.SubjectPhoto]:
    return list(subjects.drawn(0, photos=2, size=64, seed=0))


def test_regularization_asks_for_words_of_the_vocabulary_or_of_the_dictionary() -> None:
    vocabulary = {"colour": list(world.COLOURS), "pattern": ["striped", "plain"]}
    own = {"colour": ["red"], "material": ["woolly"]}
    options = {"images": 12, "seed": 3}
    every = regularization.asked(photos(), own, vocabulary, words="vocabulary", **options)
    assert {len(one.attributes) for one in every} == {1} and len(every) == 12
    assert len({one.attributes for one in every}) > 4
    few = regularization.asked(photos(), own, vocabulary, words="dictionary", **options)
    assert {one.attributes for one in few} == {("red",), ("woolly",), ("red", "woolly")}
    kind = photos()[0].class_word
    assert {one.prompt for one in few} == {
        f"a red {kind}", f"a woolly {kind}", f"a red woolly {kind}"
    }  # fmt: skip
    assert regularization.asked(photos(), {}, vocabulary, words="dictionary", **options) == []
    again = regularization.asked(photos(), own, vocabulary, words="vocabulary", **options)
    assert [one.seed for one in again] == [one.seed for one in every]
