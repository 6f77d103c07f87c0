"""Proves that captions tell the truth about their scenes, in words the vocabulary knows.

Descriptions are parsed back by a grammar written here and compared with the things; sides are
compared with the drawn boxes. Needs no checkpoint.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu import world

COLOUR = "|".join(world.COLOURS)
CATEGORY = "|".join(world.CATEGORIES)
PATTERN = "|".join(kind for kind in world.PATTERNS if kind != "plain")
WORN = rf"an? (?:(?P<worn_colour>{COLOUR}) )?(?P<worn>{'|'.join(world.ACCESSORIES)})"
SUBJECT = re.compile(
    rf"an? (?:(?P<colour>{COLOUR}) )?(?:and (?P<second>{COLOUR}) )?(?:(?P<pattern>{PATTERN}) )?"
    rf"(?:(?P<material>{'|'.join(world.MATERIALS)}) )?(?P<category>{CATEGORY})"
    rf"(?: wearing {WORN})?"
)
PERSON = re.compile(
    rf"a person with (?:(?P<length>no|short|long) )?(?:(?P<hair>{'|'.join(world.HAIR_COLOURS)}) )?"
    rf"hair(?P<glasses>(?:, | and )glasses)?(?P<beard> and a beard)?"
    rf" wearing an? (?:(?P<colour>{COLOUR}) )?(?:(?P<pattern>{PATTERN}) )?shirt(?: and {WORN})?"
)

seeds = st.integers(0, 2**31)
details = st.sampled_from(world.DETAILS)


def scenes(number: int, /, **options: Any) -> Iterator[tuple[world.Scene, np.random.Generator]]:
    """Scenes, each with a stream to caption it with; `options` are those of `sample_scene`."""
    for seed in range(number):
        rng = world.rng_for("captions", seed)
        yield world.sample_scene(rng, **options), rng


def tokens(text: str) -> list[str]:
    return text.replace(",", " , ").split()


def said(match: re.Match[str] | None) -> dict[str, str]:
    assert match is not None
    return {name: word for name, word in match.groupdict().items() if word}


def colour_words(text: str) -> set[str]:
    return {word for word in tokens(text) if word in {*world.COLOURS, *world.HAIR_COLOURS}}


@given(seed=seeds, detail=details, colours=st.booleans())
def test_a_subjects_description_says_what_it_is(
    seed: int, detail: world.Detail, colours: bool
) -> None:
    thing = world.sample_subject(world.rng_for("describe", seed))
    told = said(SUBJECT.fullmatch(world.describe(thing, detail=detail, colours=colours)))
    patterned = thing.pattern.kind != "plain"
    expected = {"category": thing.category}
    if colours and detail != "category":
        expected["colour"] = thing.colour
    if patterned and detail in ("full", "pattern"):
        expected["pattern"] = thing.pattern.kind
    if colours and detail == "full":
        expected["material"] = thing.material
        expected |= {"second": thing.second.name} if patterned else {}
    if thing.accessory and detail in ("full", "pattern"):
        expected["worn"] = thing.accessory.kind
        expected |= {"worn_colour": thing.accessory.shade.name} if colours else {}
    assert told == expected


@given(seed=seeds, detail=st.sampled_from(["full", "pattern", "colour"]), colours=st.booleans())
def test_a_persons_description_says_who_it_is(
    seed: int, detail: world.Detail, colours: bool
) -> None:
    person = world.sample_person(world.rng_for("describe", seed))
    face, garment = person.face, person.garment
    told = said(PERSON.fullmatch(world.describe(person, detail=detail, colours=colours)))
    bald = face.hair_style == "no"
    expected = {"hair": face.hair} if colours and not bald else {}
    if bald or not colours or detail == "full":
        expected["length"] = face.hair_style
    if colours:
        expected["colour"] = garment.colour
    if detail != "colour":
        expected |= {"pattern": garment.pattern.kind} if garment.pattern.kind != "plain" else {}
        assert bool(told.pop("glasses", "")) == face.wears_glasses
        assert bool(told.pop("beard", "")) == face.has_beard
        if person.accessory:
            expected["worn"] = person.accessory.kind
            expected |= {"worn_colour": person.accessory.shade.name} if colours else {}
    assert told == expected


def test_every_category_and_a_person_have_their_plainest_description() -> None:
    for category in world.CATEGORIES:
        thing = world.sample_subject(world.rng_for("plain"), category=category)
        article = "an" if category[0] in "aeiou" else "a"
        assert world.describe(thing, detail="category") == f"{article} {category}"
    person = world.sample_person(world.rng_for("plain"))
    assert world.describe(person, detail="category") == "a person"


@given(seed=seeds, detail=details)
def test_a_caption_lists_its_things_from_left_to_right(seed: int, detail: world.Detail) -> None:
    scene = world.sample_scene(world.rng_for("captions", seed), style="photo")
    order = np.argsort([frame.cx for frame in scene.frames], kind="stable")
    phrases = [world.describe(scene.things[i], detail=detail) for i in order]
    listed = ", ".join(phrases[:-1]) + " and " + phrases[-1] if phrases[1:] else phrases[0]
    assert world.caption(scene, detail=detail) == f"{listed} {world.place(scene)}"


def test_left_and_right_are_those_of_the_picture() -> None:
    seen = {"left": 0, "right": 0}
    for scene, rng in scenes(500, count=2, style="photo"):
        match = re.match(r"(.+) to the (left|right) of (.+)", world.caption(scene, rng=rng))
        if not match:
            continue
        drawn = world.render(scene, 32).things
        left, right = sorted(drawn, key=lambda thing: thing.box_xyxy01[0] + thing.box_xyxy01[2])
        first, second = (left, right) if match[2] == "left" else (right, left)
        assert match[1] in [world.describe(first.thing, detail=d) for d in world.DETAILS]
        rest = [world.describe(second.thing, detail=d) for d in world.DETAILS]
        assert any(match[3].startswith(text) for text in rest)
        seen[match[2]] += 1
    assert min(seen.values()) > 40


def test_every_colour_pattern_and_category_word_belongs_to_the_scene() -> None:
    for scene, rng in scenes(2000):
        words = tokens(world.caption(scene, rng=rng))
        subjects = [t.garment if isinstance(t, world.Person) else t for t in scene.things]
        worn = [thing.accessory for thing in scene.things if thing.accessory]
        faces = [thing.face for thing in scene.things if isinstance(thing, world.Person)]
        place = tokens(world.place(scene))
        true = {
            *(word for subject in subjects for word in (subject.colour, subject.second.name)),
            *(subject.pattern.kind for subject in subjects),
            *(subject.material for subject in subjects),
            *(subject.category for subject in subjects),
            *(accessory.kind for accessory in worn),
            *(accessory.shade.name for accessory in worn),
            *(face.hair for face in faces),
            *place,
        }
        named = {*world.COLOURS, *world.PATTERNS, *world.MATERIALS, *world.CATEGORIES}
        named |= {*world.ACCESSORIES, *world.HAIR_COLOURS}
        assert {word for word in words if word in named} <= true


def test_line_art_has_no_colour_words() -> None:
    for scene, rng in scenes(500, style="line art"):
        text = world.caption(scene, rng=rng)
        assert text.startswith("a line art drawing of ")
        # Version 1 calls the fabric white in every style.
        assert colour_words(text.replace("on a white fabric", "")) == set()


def test_a_caption_names_its_style_and_place() -> None:
    scene, _ = next(scenes(1, count=1, style="photo", background="rug"))
    scene = replace(scene, background_colour="orange")
    assert world.place(scene) == "on an orange rug"
    assert world.place(scene, colours=False) == "on a rug"
    text = world.caption(scene)
    assert world.caption(replace(scene, style="night")) == f"{text}, at night"
    assert world.caption(replace(scene, style="pastel")) == f"a pastel painting of {text}"


def test_the_vocabulary_covers_every_word_ever_said() -> None:
    vocabulary = set(world.vocabulary())
    heard: set[str] = set()
    for scene, rng in scenes(3000):
        heard |= set(tokens(world.caption(scene, rng=rng)))
        heard |= set(tokens(world.caption(scene)))
        edit = world.Edit(
            colour=world.pick(rng, [None, *world.COLOURS]),
            pattern=world.pick(rng, [None, *world.PATTERNS]),
            material=world.pick(rng, [None, *world.MATERIALS]),
            accessory=world.pick(rng, [None, *world.ACCESSORIES]),
        )
        heard |= set(tokens(world.describe_edit(edit, world.pick(rng, world.CATEGORIES))))
    assert heard <= vocabulary
    assert vocabulary == {word.lower() for word in vocabulary}
    named = {*world.CATEGORIES, *world.COLOURS, *world.MATERIALS, *world.PATTERNS}
    assert named <= heard  # so that the sample says something


def test_captions_are_well_formed_and_short() -> None:
    varied, full = [], []
    for scene, rng in scenes(2000):
        texts = world.caption(scene, rng=rng), world.caption(scene)
        for text in texts:
            assert not re.search(r"\ban? an?\b|\ba [aeiou]|\ban [^aeiou]|  |^ | $| ,", text)
        varied.append(len(tokens(texts[0])))
        full.append(len(tokens(texts[1])))
    assert max(varied) <= 60 and np.mean(np.array(varied) <= 32) > 0.97
    assert max(full) <= 77


def test_varied_captions_vary() -> None:
    scene, rng = next(scenes(1, count=2, style="photo"))
    assert len({world.caption(scene, rng=rng) for _ in range(40)}) > 8
    assert len({world.caption(scene) for _ in range(5)}) == 1


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (world.Edit(colour="blue", pattern="dotted"), "the same mug, but blue dotted"),
        (world.Edit(material="woolly"), "the same mug, but woolly"),
        (world.Edit(accessory="hat"), "the same mug, wearing a red hat"),
        (
            world.Edit(colour="red", accessory="bow", accessory_colour="orange"),
            "the same mug, but red, wearing an orange bow",
        ),
    ],
)
def test_an_edit_says_what_it_changes(edit: world.Edit, text: str) -> None:
    assert world.describe_edit(edit, "mug") == text
