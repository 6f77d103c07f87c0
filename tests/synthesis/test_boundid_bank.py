"""Proves that pairs follow from their number, of one split each, and that planted faults are what
they say, so that filters can be measured. Needs nothing.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from insitu import world
from insitu.errors import UserError
from insitu.randomness import rng_for
from insitu.records import Image
from insitu.records.engines import Pair
from insitu.records.pictures import Picture
from insitu.synthesis import bank
from insitu.synthesis.generators import WorldGenerator, background_of
from tests.synthesis.some_pairs import BANK


def test_a_pair_is_two_identities_of_one_split_and_no_identity_is_in_two() -> None:
    found = list(bank.pairs(BANK, range(60), seed=1))
    members: dict[str, set[str]] = {}
    for pair in found:
        names = [reference.identity for reference in pair.references]
        assert len(set(names)) == 2
        members.setdefault(pair.split, set()).update(names)
        for reference in pair.references:
            assert reference.description in pair.prompt
            assert reference.image != reference.other
    assert set(members) == {"train", "validation", "test"}
    assert not any(a & b for a, b in itertools.combinations(members.values(), 2))
    for split, names in members.items():
        assert names <= {bank.name_of(7, n) for n in range(40) if BANK.split(n) == split}


def test_a_pair_follows_from_its_number_whatever_else_is_asked_for() -> None:
    many = list(bank.pairs(BANK, range(12), seed=1))
    assert list(bank.pairs(BANK, [7], seed=1)) == [many[7]]
    assert list(bank.pairs(BANK, [9, 2], seed=1)) == [many[9], many[2]]
    assert list(bank.pairs(BANK, [7], seed=2)) != [many[7]]
    assert len({pair.id for pair in many}) == len({pair.seed for pair in many}) == 12


def test_growing_the_bank_moves_no_identity_to_another_split() -> None:
    larger = replace(BANK, identities=80)
    assert [larger.split(n) for n in range(40)] == [BANK.split(n) for n in range(40)]


def test_the_prompts_place_is_the_one_that_the_world_draws() -> None:
    kinds = {k: phrase for k, phrase in world.BACKGROUNDS.items() if phrase in bank.WORLD_PLACES}
    assert len(kinds) == len(bank.WORLD_PLACES) > 5
    for pair in bank.pairs(BANK, range(60), seed=1):
        kind = background_of(pair.prompt)
        assert kind is not None and pair.prompt.endswith(kinds[kind])
    assert background_of("a red mug in a dream") is None


@pytest.mark.parametrize("name", ["my-red-mug", "world-0-7-1", "mug"])
def test_an_identity_that_the_world_cannot_draw_is_refused(name: str) -> None:
    (pair,) = bank.pairs(BANK, [0], seed=1)
    foreign = replace(
        pair, references=(replace(pair.references[0], identity=name), pair.references[1])
    )
    with pytest.raises(UserError) as refused:
        WorldGenerator(size=32, rates={}, degraded=0.0).draw([foreign])
    error = refused.value
    assert repr(name) in error.given and "only its own" in error.why
    assert "candidates.generator" in error.todo


def picture(identity: str | None, number: int, **changed: Any) -> Picture:
    image = Image.from_array(np.full((20, 20, 3), number, np.uint8))
    fields: dict[str, Any] = {
        field: None for field in Picture.__dataclass_fields__ if field not in ("id", "image")
    }
    return Picture(
        **fields | {"id": f"p{number}", "image": image, "identity": identity, "split": "train"}
        | changed
    )  # fmt: skip


def test_a_users_pictures_are_a_bank_of_those_with_two_of_one_identity() -> None:
    rows = [picture(name, n) for n, name in enumerate(["red-mug-3", "cat", None, "red-mug-3"])]
    with pytest.raises(UserError, match="a pair needs two"):
        bank.PictureBank(rows)
    own = bank.PictureBank([*rows, picture("cat", 9), picture("lone", 10)])
    assert len(own) == 2
    (pair,) = bank.pairs(own, [0], seed=0)
    assert {r.identity for r in pair.references} == {"cat", "red-mug-3"}
    mug = next(r for r in pair.references if r.identity == "red-mug-3")
    assert (mug.category, mug.description) == ("red mug", "a red mug")
    assert (mug.image, mug.other) == (rows[0].image, rows[3].image)


def test_a_bank_in_which_no_split_has_two_is_refused() -> None:
    rows = [
        picture(name, 2 * n + k, split=("train", "test")[n])
        for n, name in enumerate(["cat", "mug"]) for k in range(2)
    ]  # fmt: skip
    with pytest.raises(UserError, match="No split has two"):
        list(bank.pairs(bank.PictureBank(rows), [0], seed=0))


# What the world plants.


def intended(pair: Pair) -> tuple[world.Scene, list[int], np.random.Generator]:
    """The scene as it was meant, which reference each of its things is, and what draws on."""
    subjects = [bank.subject_of(reference.identity) for reference in pair.references]
    rng = rng_for("candidate", pair.seed, pair.id)
    scene = world.sample_scene(
        rng, things=list(subjects), style="photo", background=background_of(pair.prompt)
    )
    return scene, [subjects.index(thing) for thing in scene.things], rng


def test_a_missing_fault_names_the_reference_that_is_not_in_the_picture() -> None:
    generator = WorldGenerator(size=64, rates={"missing": 1.0}, degraded=0.0)
    found = list(bank.pairs(BANK, range(8), seed=1))
    orders = set()
    for pair, drawn in zip(found, generator.draw(found), strict=True):
        assert drawn.faults is not None
        ((kind, gone),) = [(fault.kind, fault.thing) for fault in drawn.faults]
        scene, order, _ = intended(pair)
        orders.add(tuple(order))
        assert kind == "missing" and gone in (0, 1)
        keep = order.index(1 - gone)
        without = replace(scene, things=(scene.things[keep],), frames=(scene.frames[keep],))
        assert np.array_equal(world.render(without, 64).image, drawn.image)
    assert orders == {(0, 1), (1, 0)}  # else the scene's order would do as well


def test_a_wrong_identity_fault_names_the_reference_that_was_replaced() -> None:
    generator = WorldGenerator(size=64, rates={"wrong identity": 1.0}, degraded=0.0)
    found = list(bank.pairs(BANK, range(8), seed=1))
    for pair, drawn in zip(found, generator.draw(found), strict=True):
        assert drawn.faults is not None
        ((kind, wrong),) = [(fault.kind, fault.thing) for fault in drawn.faults]
        assert kind == "wrong identity" and wrong is not None
        scene, order, rng = intended(pair)
        spoilt, _ = world.inject(scene, rng, {"wrong identity": 1.0})
        differs = [a != b for a, b in zip(scene.things, spoilt.things, strict=True)]
        assert [order[k] for k, other in enumerate(differs) if other] == [wrong]
        assert np.array_equal(world.render(spoilt, 64).image, drawn.image)


def test_a_degraded_picture_says_how() -> None:
    sound = WorldGenerator(size=64, rates={}, degraded=0.0)
    spoilt = WorldGenerator(size=64, rates={}, degraded=1.0)
    found = list(bank.pairs(BANK, range(6), seed=1))
    for one, other in zip(sound.draw(found), spoilt.draw(found), strict=True):
        assert one.faults == () and other.faults is not None
        assert other.faults[0].kind in world.DEGRADATIONS and other.faults[0].thing is None
        assert not np.array_equal(one.image, other.image)


# From pairs to rows.
