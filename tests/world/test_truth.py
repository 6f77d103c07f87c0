"""Proves that boxes, masks, parts, landmarks and shares seen are those of the drawn pixels.

Things are put at random places, sizes, tilts and mirrorings with hypothesis. Needs no checkpoint.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insitu import world

SIZE = 96
PIXEL = 1 / SIZE

seeds = st.integers(0, 2**31)
frames = st.builds(
    world.Frame,
    cx=st.floats(-0.1, 1.1),
    cy=st.floats(-0.1, 1.1),
    size=st.floats(0.14, 0.5),
    tilt=st.floats(-40, 40),
    flip=st.booleans(),
)


def sample_thing(seed: int, person: bool) -> world.Thing:
    rng = world.rng_for("truth", seed)
    return world.sample_person(rng) if person else world.sample_subject(rng)


things = st.builds(sample_thing, seeds, st.booleans())


def scene_of(*placed: tuple[world.Thing, world.Frame], clutter: int = 0) -> world.Scene:
    """Things back to front in front of a plain wall."""
    return world.Scene(
        things=tuple(thing for thing, _ in placed),
        frames=tuple(frame for _, frame in placed),
        clutter=clutter,
    )


def dilate(mask: np.ndarray, pixels: int = 1) -> np.ndarray:
    kernel = np.ones((2 * pixels + 1,) * 2, np.uint8)
    return cv2.dilate(mask.astype(np.uint8), kernel) > 0


def erode(mask: np.ndarray, pixels: int = 1) -> np.ndarray:
    return ~dilate(~mask, pixels)


@given(thing=things, frame=frames)
@settings(max_examples=60)
def test_box_is_tight_around_the_mask(thing: world.Thing, frame: world.Frame) -> None:
    seen = world.render(scene_of((thing, frame)), SIZE).things[0]
    assume(seen.mask.sum() > 60)
    rows, columns = np.flatnonzero(seen.mask.any(1)), np.flatnonzero(seen.mask.any(0))
    of_mask = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * PIXEL
    outward = (of_mask - seen.box_xyxy01) * (1, 1, -1, -1)
    # A mask pixel is covered by half at least; the box counts quarters of a pixel, and the point
    # of a tail is thinner than half a pixel for a while.
    assert outward.min() >= -0.75 * PIXEL
    assert outward.max() <= 4 * PIXEL


@given(thing=things, frame=frames)
@settings(max_examples=30)
def test_every_pixel_of_the_mask_is_painted_and_little_beside_it(
    thing: world.Thing, frame: world.Frame
) -> None:
    scene = scene_of((thing, frame))
    away = scene_of((thing, replace(frame, cx=9.0)))
    drawn, empty = world.render(scene, SIZE), world.render(away, SIZE).image
    changed = (np.abs(drawn.image.astype(int) - empty) > 0).any(2)
    mask = drawn.things[0].mask
    # A pixel may by chance have the wall's very colour.
    assert (mask & ~changed).sum() <= 0.02 * max(mask.sum(), 50)
    # Half of the outline lies outside the mask, 0.0225 of the frame's size, and so do the arms of
    # glasses; below is the shadow.
    reach = 2 + int(0.03 * frame.size * SIZE)
    above = np.arange(SIZE)[:, None] * PIXEL < frame.cy + 0.7 * frame.size
    assert (changed & above & ~dilate(mask, reach)).sum() <= 12


def test_a_thing_outside_the_picture_has_no_pixels() -> None:
    scene = scene_of((sample_thing(1, True), world.Frame(3.0, 0.5, 0.3)))
    seen = world.render(scene, SIZE).things[0]
    assert not seen.mask.any() and seen.visible == 0 and seen.box_xyxy01 == (0, 0, 0, 0)


@given(back=things, front=things, frame=frames, dx=st.floats(-0.3, 0.3), dy=st.floats(-0.3, 0.3))
@settings(max_examples=50)
def test_the_front_thing_owns_the_shared_pixels(
    back: world.Thing, front: world.Thing, frame: world.Frame, dx: float, dy: float
) -> None:
    beside = replace(frame, cx=frame.cx + dx, cy=frame.cy + dy)
    both = world.render(scene_of((back, frame), (front, beside)), SIZE)
    back_alone = world.render(scene_of((back, frame)), SIZE).things[0].mask
    alone = world.render(scene_of((front, beside)), SIZE)
    front_alone = alone.things[0].mask
    behind, before = both.things

    assume(front_alone.any())
    assert np.array_equal(before.mask, front_alone) and before.visible == 1
    inner = erode(front_alone, 2)
    # What stands behind may look through gaps narrower than a pixel, between a mast and its sail.
    assert behind.mask[inner].sum() <= 6
    assert (both.image[inner] != alone.image[inner]).any(1).sum() <= 12
    assert np.array_equal(behind.mask & ~dilate(front_alone), back_alone & ~dilate(front_alone))
    assume(back_alone.sum() > 150)
    share = (back_alone & ~front_alone).sum() / back_alone.sum()
    assert behind.visible == pytest.approx(share, abs=0.05)


@given(seed=seeds)
@settings(max_examples=20)
def test_clutter_belongs_to_nobody_and_hides_things(seed: int) -> None:
    scene = world.sample_scene(world.rng_for("truth", seed), style="photo")
    clean, strewn = (world.render(replace(scene, clutter=n), SIZE) for n in (0, 9))
    for before, after in zip(clean.things, strewn.things, strict=True):
        assert not (after.mask & ~before.mask).any()
        assert after.visible == pytest.approx(
            before.visible * after.mask.sum() / before.mask.sum(), abs=0.04
        )


@given(seed=seeds)
@settings(max_examples=25)
def test_parts_partition_the_mask(seed: int) -> None:
    scene = world.sample_scene(world.rng_for("truth", seed))
    for thing in world.render(scene, 128, parts=True).things:
        count = np.sum([*thing.parts.values()], axis=0)
        assert not (count.astype(bool) & ~thing.mask).any()
        # Where two or three parts meet within one pixel, it is of both or of none.
        assert (count[thing.mask] != 1).mean() < 0.06
        assert not count[erode(thing.mask)].max() > 2


def test_parts_have_their_names() -> None:
    rng = world.rng_for("parts")
    mug = world.sample_subject(rng, category="mug", accessory=False)
    person = world.sample_person(rng, face=replace(world.sample_face(rng), hair_length=0.8))
    scenes = [scene_of((thing, world.Frame(0.5, 0.5, 0.4))) for thing in (mug, person)]
    of_mug, of_person = (world.render(scene, parts=True).things[0].parts for scene in scenes)
    assert set(of_mug) == {"handle", "body", "rim"}
    assert {"face", "hair", "neck", "shirt body", "shirt collar"} <= set(of_person)
    assert world.render(scenes[0]).things[0].parts == {}


people = st.builds(sample_thing, seeds, st.just(True))


@given(
    person=people, tilt=st.floats(-25, 25), flip=st.booleans(),
    yaw=st.floats(-1, 1), smile=st.floats(-1, 1), roll=st.floats(-10, 10),
)  # fmt: skip
@settings(max_examples=60)
def test_landmarks_lie_in_the_face_as_seen(
    person: world.Person, tilt: float, flip: bool, yaw: float, smile: float, roll: float
) -> None:
    look = world.Expression(yaw=yaw, smile=smile, roll=roll)
    person = replace(person, expression=look)
    frame = world.Frame(0.5, 0.55, 0.4, tilt, flip)
    seen = world.render(scene_of((person, frame)), SIZE).things[0]
    points, box = seen.landmarks_xy01, seen.face_box_xyxy01
    assert points is not None and box is not None and points.shape == (5, 2)
    assert (points > box[:2]).all() and (points < box[2:]).all()
    left_eye, right_eye, nose, left_mouth, right_mouth = points
    assert left_eye[0] < right_eye[0] and left_mouth[0] < right_mouth[0]
    # Down the face, whichever way the head leans: eyes, nose, mouth.
    down = (left_mouth + right_mouth - left_eye - right_eye) / 2
    heights = [point @ down for point in ((left_eye + right_eye) / 2, nose, left_mouth)]
    assert heights == sorted(heights)
    columns, rows = (points * SIZE).astype(int).T
    assert seen.mask[rows, columns].all()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("tilt", [-20.0, 0.0, 20.0])
def test_pupils_are_drawn_at_the_eye_landmarks(flip: bool, tilt: float) -> None:
    for seed in range(10):
        rng = world.rng_for("pupils", seed)
        face = replace(world.sample_face(rng), glasses=0.2)
        person = replace(world.sample_person(rng, face=face), expression=world.Expression())
        scene = scene_of((person, world.Frame(0.5, 0.6, 0.5, tilt, flip)))
        drawn = world.render(scene, 256)
        points = drawn.things[0].landmarks_xy01
        assert points is not None
        for x, y in (points[:2] * 256).astype(int):
            assert drawn.image[y, x].max() < 60  # darker than any iris or skin


def test_only_people_have_faces() -> None:
    left, right = world.Frame(0.3, 0.5, 0.2), world.Frame(0.7, 0.5, 0.2)
    scene = scene_of((sample_thing(1, False), left), (sample_thing(1, True), right))
    subject, person = world.render(scene).things
    assert subject.landmarks_xy01 is None and subject.face_box_xyxy01 is None
    assert person.landmarks_xy01 is not None and person.face_box_xyxy01 is not None


def test_scenes_run_back_to_front() -> None:
    """What stands lower in the picture is nearer, hence painted later."""
    for seed in range(200):
        scene = world.sample_scene(world.rng_for("truth", seed))
        feet = [frame.cy + frame.size for frame in scene.frames]
        assert feet == sorted(feet)


def test_things_often_hide_parts_of_one_another_and_never_most() -> None:
    """Drawn scenes of two things and more, over which the least share seen is counted."""
    least = []
    for seed in range(200):
        scene = world.sample_scene(world.rng_for("hidden", seed), count=2 + seed % 3)
        least.append(min(thing.visible for thing in world.render(scene).things))
    assert 0.15 < np.mean(np.array(least) < 0.85) < 0.5
    assert np.mean(np.array(least) < 0.3) < 0.03
