"""Proves that a scene is the same picture at every size, and that styles repaint all of it.

Needs no checkpoint.
"""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from insitu import world


def reduced(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)


def edge(mask: np.ndarray) -> np.ndarray:
    """Pixels with neighbours both inside and outside the mask."""
    around = np.ones((3, 3), np.uint8)
    inside = mask.astype(np.uint8)
    return cv2.dilate(inside, around) > cv2.erode(inside, around)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_other_sizes_show_the_same_picture(size: int) -> None:
    for seed in range(12):
        scene = world.sample_scene(world.rng_for("sizes", seed))
        drawn, large = world.render(scene, size), world.render(scene, 320)
        assert drawn.image.shape == (size, size, 3) and drawn.image.dtype == np.uint8
        apart = np.abs(drawn.image.astype(int) - reduced(large.image, size))
        # Strokes are whole samples wide: thin lines differ between sizes, and line art has only
        # such lines.
        assert apart.mean() < (25 if scene.style == "line art" else 6)
        for small, big in zip(drawn.things, large.things, strict=True):
            assert small.visible == pytest.approx(big.visible, abs=0.03)
            assert small.box_xyxy01 == pytest.approx(big.box_xyxy01, abs=1 / size)
            mask = reduced(big.mask.astype(np.float32), size) >= 0.5
            # They differ on the edge, of which small things at 32 pixels have much, and in gaps
            # narrower than a pixel.
            assert ((mask ^ small.mask) & ~edge(mask)).sum() <= 3
            assert (mask & small.mask).sum() > (0.75 if size == 32 else 0.8) * mask.sum()
            if small.landmarks_xy01 is not None and big.landmarks_xy01 is not None:
                assert np.array_equal(small.landmarks_xy01, big.landmarks_xy01)


def test_every_multiple_of_8_can_be_drawn() -> None:
    scene = world.sample_scene(world.rng_for("sizes"), count=4)
    for size in range(8, 81, 8):
        drawn = world.render(scene, size)
        assert drawn.image.shape == (size, size, 3)
        assert all(thing.mask.shape == (size, size) for thing in drawn.things)


def test_styles_change_the_picture_and_not_the_truth() -> None:
    for seed in range(6):
        scene = world.sample_scene(world.rng_for("styles", seed), style="photo")
        drawn = {name: world.render(replace(scene, style=name)) for name in world.STYLES}
        photo = drawn.pop("photo")
        for other in drawn.values():
            assert np.abs(photo.image.astype(int) - other.image).mean() > 20
            for one, two in zip(photo.things, other.things, strict=True):
                assert np.array_equal(one.mask, two.mask) and one.box_xyxy01 == two.box_xyxy01
        ink = drawn["line art"].image
        assert np.array_equal(ink[..., 0], ink[..., 1]) and np.array_equal(ink[..., 0], ink[..., 2])
        assert drawn["night"].image.mean() < 0.7 * photo.image.mean()
        assert drawn["pastel"].image.min() > 80


def test_light_and_background_are_drawn() -> None:
    scene = world.sample_scene(world.rng_for("light"), count=1, people=False, style="photo")
    dim, bright = (
        world.render(replace(scene, light=replace(scene.light, brightness=level))).image
        for level in (0.8, 1.0)
    )
    assert dim.mean() == pytest.approx(0.8 * bright.mean(), rel=0.03)
    places = [world.render(replace(scene, background=name)).image for name in world.BACKGROUNDS]
    assert len({place.tobytes() for place in places}) == len(places)


def sampled(people: bool) -> list[world.Scene]:
    keys = [(count, seed) for count in range(1, 5) for seed in range(25)]
    scenes = [
        world.sample_scene(world.rng_for("asked", *key), count=key[0], people=people)
        for key in keys
    ]
    assert [len(scene.things) for scene in scenes] == [count for count, _ in keys]
    return scenes


def test_scenes_of_people_have_only_people() -> None:
    assert all(isinstance(t, world.Person) for scene in sampled(True) for t in scene.things)


def test_scenes_without_people_have_none() -> None:
    assert not any(isinstance(t, world.Person) for scene in sampled(False) for t in scene.things)


def test_scenes_hold_what_is_given() -> None:
    mug = world.sample_subject(world.rng_for("asked"), category="mug")
    cat = world.sample_subject(world.rng_for("asked"), category="cat")
    scene = world.sample_scene(world.rng_for("asked"), things=[mug, cat], background="snow")
    assert set(scene.things) == {mug, cat} and scene.background == "snow"
