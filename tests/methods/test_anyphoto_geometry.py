"""Proves AnyPhoto's canvas geometry: how far pasted landmarks are off, what is clipped, which
tokens stay, and that degradations keep shapes and the flip its landmarks. Needs nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.methods.anyphoto.canvas import (
    Patch,
    fit,
    most_tokens,
    overlap,
    paste,
    scale,
    similarity,
    tokens_under,
)
from insitu.methods.anyphoto.degradations import KINDS, degraded, flipped

FIVE = np.array([[0.34, 0.5], [0.66, 0.5], [0.5, 0.615], [0.355, 0.72], [0.645, 0.72]])
WIDE = (1.0, 4000.0)
"""Sides that clamp nothing here."""
angles = st.floats(-0.6, 0.6)
sizes = st.integers(16, 300)
factors = st.floats(0.05, 4)
shifts = st.tuples(st.floats(-400, 400), st.floats(-400, 400))
wobbles = st.lists(st.floats(-0.04, 0.04), min_size=10, max_size=10)


def patch_of(size: int, wobble: list[float] | None = None) -> Patch:
    moved = FIVE if wobble is None else FIVE + np.reshape(wobble, (5, 2))
    return Patch(
        pixels=np.full((size, size, 3), 90, np.uint8), alpha=np.full((size, size), 255, np.uint8),
        landmarks=moved * size,
    )  # fmt: skip


def turned(points: np.ndarray, factor: float, angle: float, shift: tuple[float, float]):
    z = points @ (1, 1j) * factor * np.exp(1j * angle)
    return np.stack([z.real, z.imag], -1) + shift


@settings(max_examples=200, deadline=None)
@given(sizes, factors, angles, shifts, wobbles, st.tuples(st.floats(1, 50), st.floats(50, 600)))
def test_the_mean_residual_is_half_a_pixel_at_most_at_any_scale(
    size, factor, angle, shift, wobble, sides
) -> None:
    """Turned, uneven and clamped targets included (eq. 29)."""
    patch = patch_of(size, wobble)
    target = turned(FIVE * size, factor, angle, shift)
    place = fit(patch, target, sides)
    assert sides[0] - 0.5 <= place.side <= sides[1] + 0.5
    pasted = patch.landmarks * place.side / size + place.corner
    assert np.abs((target - pasted).mean(0)).max() <= 0.5 + 1e-9


@settings(max_examples=200, deadline=None)
@given(sizes, factors, shifts, wobbles)
def test_each_landmark_of_an_upright_target_is_met_within_a_pixel(
    size, factor, shift, wobble
) -> None:
    patch = patch_of(size, wobble)
    target = patch.landmarks * factor + shift
    place = fit(patch, target, WIDE)
    pasted = patch.landmarks * place.side / size + place.corner
    if round(factor * size) >= WIDE[0]:
        assert np.abs(target - pasted).max() <= 1


@given(factors, angles, shifts)
def test_the_scale_is_the_similaritys_and_its_turn_is_discarded(factor, angle, shift) -> None:
    patch = patch_of(64)
    target = turned(patch.landmarks, factor, angle, shift)
    assert scale(patch.landmarks, target) == pytest.approx(factor)
    a, b = similarity(patch.landmarks, target)
    assert np.allclose(a, factor * np.exp(1j * angle))
    assert np.allclose(patch.landmarks @ (1, 1j) * a + b, target @ (1, 1j))


@settings(max_examples=100, deadline=None)
@given(sizes, st.floats(0.1, 2), st.tuples(st.floats(-300, 300), st.floats(-300, 300)))
def test_a_face_is_clipped_at_the_borders_and_white_elsewhere(size, factor, shift) -> None:
    patch = patch_of(size)
    place = fit(patch, patch.landmarks * factor + shift, WIDE)
    height, width = 96, 160
    canvas = paste(patch, place, height, width)
    expected = np.zeros((height, width), np.uint8)
    x, y = place.corner
    expected[max(0, y) : max(0, y + place.side), max(0, x) : max(0, x + place.side)] = 255
    assert np.array_equal(canvas.mask, expected)
    assert (canvas.pixels[expected == 0] == 255).all()
    assert (canvas.pixels[expected == 255] == 90).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(4, 200), st.tuples(st.floats(-50, 200), st.floats(-50, 200)), st.integers(2, 16))
def test_kept_tokens_are_those_that_the_face_touches_and_no_more_than_counted(
    side, shift, stride
) -> None:
    height, width = 8 * stride, 12 * stride
    patch = patch_of(32)
    canvas = paste(patch, fit(patch, FIVE * side + shift, (4, side)), height, width)
    kept = tokens_under(canvas.mask, stride)
    touched = [
        row * 12 + column
        for row in range(8)
        for column in range(12)
        if canvas.mask[row * stride :, column * stride :][:stride, :stride].any()
    ]
    assert kept.tolist() == touched
    assert len(kept) <= most_tokens(side, height, width, stride)


def test_what_is_not_of_the_picture_is_transparent_and_overlaps_are_shares_of_the_smaller() -> None:
    patch = patch_of(40)
    patch.alpha[:, :20] = 0
    canvas = paste(patch, fit(patch, FIVE * 40, WIDE), 40, 80)
    assert canvas.mask[:, :20].max() == 0 and canvas.mask[:, 20:40].min() == 255
    assert (canvas.pixels[:, :20] == 255).all()
    whole = paste(patch_of(40), fit(patch_of(40), FIVE * 40 + (30, 0), WIDE), 40, 80)
    assert overlap(canvas, whole) == pytest.approx(0.5)  # 10 of 20 columns
    assert overlap(whole, canvas) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_degradation_changes_a_picture_and_is_as_strong_as_asked(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (32, 32, 3), np.uint8)
    pixels[8:20, 8:20] = (180, 60, 60)

    def change(severity: float) -> float:
        found = [
            KINDS[kind](pixels, np.random.default_rng(seed), severity).astype(float)
            for seed in range(8)
        ]
        assert all(one.shape == pixels.shape for one in found)
        return float(np.mean([np.abs(one - pixels).mean() for one in found]))

    assert change(1.0) > 1
    assert change(1.0) > change(0.3)


def test_degradations_follow_from_their_stream_and_a_flip_takes_its_landmarks_along() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    patch = Patch(pixels=pixels, alpha=np.full((32, 32), 255, np.uint8), landmarks=FIVE * 32)
    kinds = [*KINDS, "flip"]

    def done(seed: int, probability: float = 0.5) -> Patch:
        rng = np.random.default_rng(seed)
        return degraded(patch, kinds, rng, probability=probability, severity=1.0)

    assert np.array_equal(done(1).pixels, done(1).pixels)
    assert not np.array_equal(done(1).pixels, done(2).pixels)
    assert np.array_equal(done(1, 0.0).pixels, pixels)
    mirrored = flipped(patch)
    assert np.array_equal(mirrored.pixels, pixels[:, ::-1])
    assert np.allclose(mirrored.landmarks, FIVE * 32)  # a template is its own mirror image
    one_sided = Patch(pixels=pixels, alpha=patch.alpha, landmarks=FIVE * 32 - (3, 0))
    assert np.allclose(flipped(one_sided).landmarks, FIVE * 32 + (3, 0))
    assert np.allclose(flipped(flipped(one_sided)).landmarks, one_sided.landmarks)
