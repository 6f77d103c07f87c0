"""Proves that faults come at their rates, that their truth says what changed, and that each kind
of degradation spoils a picture in its own way.

Needs no checkpoint; the rates are counted over 2,000 scenes that are not drawn.
"""

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu import world

DRAWS = 2000
RATES = {
    "missing": 0.1, "wrong identity": 0.2, "swapped attributes": 0.15, "blur": 0.05,
    "clutter": 0.3, "bad crop": 0.25,
}  # fmt: skip

seeds = st.integers(0, 2**31)


def spoilt(
    kind: str, seed: int, things: list[world.Thing] | None = None
) -> tuple[world.Scene, world.Scene, tuple[world.Fault, ...]]:
    """A scene, the same with one fault for sure, and the fault's truth."""
    rng = world.rng_for("fault", kind, seed)
    scene = world.sample_scene(rng, things=things, style="photo")
    return scene, *world.inject(scene, rng, {kind: 1.0})


def some_things(seed: int, count: int, people: bool = False) -> list[world.Thing]:
    rng = world.rng_for("things", seed)
    return [world.sample_person(rng) if people else world.sample_subject(rng) for _ in range(count)]


def within_binomial_bounds(hits: int, rate: float) -> bool:
    """Within 4 standard deviations: a right rate fails once in 16,000 tests."""
    return abs(hits - DRAWS * rate) <= 4 * np.sqrt(DRAWS * rate * (1 - rate))


def test_faults_happen_at_their_rates_and_independently() -> None:
    assert RATES.keys() == set(world.FAULTS)
    seen: list[set[str]] = []
    for seed in range(DRAWS):
        rng = world.rng_for("rates", seed)
        # Four things: whatever the other faults hit, two sound ones are left to swap or to lose.
        scene = world.sample_scene(rng, things=some_things(seed, 4))
        _, faults = world.inject(scene, rng, RATES)
        hit = [fault.thing for fault in faults if fault.thing is not None]
        assert len(set(hit)) == len(hit), "a thing suffers one kind of fault at most"
        seen.append({fault.kind for fault in faults})
    for kind, rate in RATES.items():
        assert within_binomial_bounds(sum(kind in kinds for kinds in seen), rate), kind
    for one, two in combinations(RATES, 2):
        hits = sum({one, two} <= kinds for kinds in seen)
        assert within_binomial_bounds(hits, RATES[one] * RATES[two]), (one, two)


@given(seed=seeds)
def test_no_rate_no_fault(seed: int) -> None:
    rng = world.rng_for("none", seed)
    scene = world.sample_scene(rng)
    assert world.inject(scene, rng, {}) == (scene, ())
    assert world.inject(scene, rng, dict.fromkeys(world.FAULTS, 0.0)) == (scene, ())


@given(seed=seeds, count=st.integers(2, 4))
def test_missing_removes_exactly_the_one_it_names(seed: int, count: int) -> None:
    scene, faulty, (fault,) = spoilt("missing", seed, some_things(seed, count))
    assert fault.thing is not None
    keep = [i for i in range(count) if i != fault.thing]
    assert faulty.things == tuple(scene.things[i] for i in keep)
    assert faulty.frames == tuple(scene.frames[i] for i in keep)
    assert replace(faulty, things=scene.things, frames=scene.frames) == scene


@given(seed=seeds, kind=st.sampled_from(["missing", "swapped attributes"]))
def test_a_lonely_thing_cannot_go_missing_or_swap(seed: int, kind: str) -> None:
    scene, faulty, faults = spoilt(kind, seed, some_things(seed, 1))
    assert faulty == scene and faults == ()


@given(seed=seeds)
def test_a_wrong_identity_keeps_place_and_category(seed: int) -> None:
    scene, faulty, (fault,) = spoilt("wrong identity", seed)
    assert fault.thing is not None
    pairs = zip(scene.things, faulty.things, strict=True)
    assert [i for i, (one, two) in enumerate(pairs) if one != two] == [fault.thing]
    before, after = scene.things[fault.thing], faulty.things[fault.thing]
    assert before.category == after.category
    if isinstance(before, world.Person) and isinstance(after, world.Person):
        assert not np.array_equal(before.face.vector(), after.face.vector())
    elif isinstance(before, world.Subject) and isinstance(after, world.Subject):
        assert not np.array_equal(before.vector(), after.vector())
    assert replace(faulty, things=scene.things) == scene


@given(seed=seeds, count=st.integers(2, 4), people=st.booleans())
def test_swapped_things_trade_their_looks_and_stay_where_they_are(
    seed: int, count: int, people: bool
) -> None:
    things = some_things(seed, count, people)
    scene, faulty, faults = spoilt("swapped attributes", seed, things)
    pairs = zip(scene.things, faulty.things, strict=True)
    i, j = (k for k, (one, two) in enumerate(pairs) if one != two)
    assert faults == tuple(world.Fault(kind="swapped attributes", thing=k) for k in (i, j))
    assert looks(faulty.things[i]) == looks(scene.things[j])
    assert looks(faulty.things[j]) == looks(scene.things[i])
    assert faulty.things[i].category == scene.things[i].category
    assert replace(faulty, things=scene.things) == scene


def looks(thing: world.Thing) -> object:
    if isinstance(thing, world.Person):
        return thing.garment
    return thing.base, thing.second, thing.pattern


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


@pytest.mark.parametrize("seed", range(8))
def test_faults_of_the_whole_picture_are_seen(seed: int) -> None:
    scene, faulty, (fault,) = spoilt("blur", seed)
    assert fault == world.Fault(kind="blur")
    assert sharpness(world.render(faulty).image) < 0.3 * sharpness(world.render(scene).image)

    scene, faulty, (fault,) = spoilt("clutter", seed)
    assert fault == world.Fault(kind="clutter")
    apart = (world.render(faulty).image != world.render(scene).image).any(2)
    assert apart.mean() > 0.04

    scene, faulty, (fault,) = spoilt("bad crop", seed)
    assert fault == world.Fault(kind="bad crop")
    inside = [world.Frame(f.cx, f.cy, f.size) for f in faulty.frames]
    assert all(new.size > old.size for new, old in zip(inside, scene.frames, strict=True))
    boxes = [thing.box_xyxy01 for thing in world.render(faulty).things]
    assert any(min(box[:2]) <= 0 or max(box[2:]) >= 1 for box in boxes)


def test_faults_together_speak_of_the_intended_things() -> None:
    """Missing comes last, so that no index shifts."""
    for seed in range(100):
        rng = world.rng_for("together", seed)
        scene = world.sample_scene(rng, things=some_things(seed, 3))
        faulty, faults = world.inject(scene, rng, {"missing": 1.0, "wrong identity": 1.0})
        gone = {fault.kind: fault.thing for fault in faults}
        kept = [i for i in range(3) if i != gone["missing"]]
        differ = [i for i, new in zip(kept, faulty.things, strict=True) if new != scene.things[i]]
        assert differ == [gone["wrong identity"]]


@given(
    seed=seeds,
    kind=st.sampled_from(world.DEGRADATIONS),
    height=st.sampled_from([16, 32, 64, 128]),
    width=st.sampled_from([16, 32, 64, 96]),
)
@settings(max_examples=60)
def test_degrading_keeps_shape_and_original(seed: int, kind: str, height: int, width: int) -> None:
    noise = world.rng_for("image", seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = noise.copy()
    one, two = (world.degrade(noise, kind, world.rng_for("degrade", seed)) for _ in range(2))
    assert np.array_equal(noise, before) and np.array_equal(one, two)
    assert one.shape == noise.shape and one.dtype == np.uint8
    assert not np.array_equal(one, noise)


def test_degradations_differ_and_have_their_marks() -> None:
    for seed in range(5):
        image = world.render(world.sample_scene(world.rng_for("spoil", seed), style="photo")).image
        by = {k: world.degrade(image, k, world.rng_for("spoil", seed)) for k in world.DEGRADATIONS}
        for one, two in combinations([image, *by.values()], 2):
            assert np.abs(one.astype(int) - two).mean() > 1
        sharp = {kind: sharpness(spoiled) for kind, spoiled in by.items()}
        assert max(sharp["blur"], sharp["low resolution"]) < sharpness(image) < sharp["noise"]
        assert by["washed out"].std() < 0.5 * image.std()
        assert len(np.unique(by["blocky"].reshape(-1, 3), axis=0)) <= 16 * 16
        assert 0.02 < (by["clutter"] != image).any(2).mean() < 0.95
