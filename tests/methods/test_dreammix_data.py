"""Proves what DreamMix is told of a subject's pictures: the identifier, and attributes beside it.

Needs no model.
"""

import numpy as np
import pytest

from insitu.methods import VALIDATION
from insitu.methods.dreammix.data import REGULAR, SUBJECT, Views, examples
from insitu.records import Box, Image
from insitu.records.engines import Lineage, RegularPhoto
from insitu.records.subjects import SubjectPhoto

PIXELS = Image.from_array(np.full((64, 64, 3), 90, np.uint8))
BOX = Box(x0=0.2, y0=0.2, x1=0.8, y1=0.8)


def photo(description: str, class_word: str = "mug") -> SubjectPhoto:
    return SubjectPhoto(
        id="mug/0", subject="mug", class_word=class_word, description=description, image=PIXELS,
        box=BOX, box_from="given", source="",
    )  # fmt: skip


def views(*words: str) -> Views:
    return Views(size=16, context=0.3, masks=2, grow=0.3, identifier="sks", words=words, seed=0)


def prompts(*words: str) -> dict[str, set[str]]:
    regular = RegularPhoto(
        id="mug/regular-0", subject="mug", class_word="mug", attributes=("blue",), image=PIXELS,
        box=BOX, mask=PIXELS, prompt="a blue mug", lineage=Lineage(sources=(), models=()),
    )  # fmt: skip
    found: dict[str, set[str]] = {}
    for example in examples([photo("a red mug")], [regular], views(*words)):
        found.setdefault(example.pool, set()).add(example.prompt)
    return found


def test_attributes_stand_beside_the_identifier_of_the_subject_alone() -> None:
    """What is regular has its own attributes, which are others."""
    regular = {REGULAR: {"a sks blue mug"}}
    assert prompts() == {SUBJECT: {"a sks mug"}, VALIDATION: {"a sks mug"}} | regular
    described = {"a sks red striped mug"}
    assert prompts("red", "striped") == {SUBJECT: described, VALIDATION: described} | regular


@pytest.mark.parametrize(
    ("description", "class_word", "words"),
    [
        ("a gray and orange two-tone lamp", "lamp", ("gray", "and", "orange", "two-tone")),
        ("an old traffic light", "traffic light", ("old",)),
        ("a mug", "mug", ()),
        ("a red mug with a flower", "mug", ()),
        ("my granny's mug", "mug", ()),
        ("a red smug", "mug", ()),
    ],
)
def test_attributes_are_what_stands_before_the_class(
    description: str, class_word: str, words: tuple[str, ...]
) -> None:
    assert photo(description, class_word).attributes == words
