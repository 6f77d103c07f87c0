"""Proves square crops and the identity encoder's contract.

Needs OpenCV, torch and transformers with a tiny random network; no checkpoint, no world.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from insitu.errors import UserError
from insitu.perception.dino import IdentityEncoder, crop_square


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_crop_of_whole_pixels_is_those_pixels() -> None:
    image = noise(32, 64)
    assert np.array_equal(crop_square(image, (0.25, 0.25, 0.5, 0.75), 16, 0.0), image[8:24, 16:32])


def test_a_long_box_is_cropped_square_and_not_squeezed() -> None:
    image = noise(64, 64)
    crop = crop_square(image, (0.25, 0.4375, 0.75, 0.5625), 32, 0.0)
    assert np.array_equal(crop, image[16:48, 16:48])


def test_outside_the_image_its_border_is_repeated() -> None:
    image = noise(16, 16)
    crop = crop_square(image, (0.0, 0.0, 1.0, 1.0), 32, 0.5)
    assert np.array_equal(crop[8:24, 8:24], image)
    assert np.array_equal(crop[0, 8:24], image[0])


def test_shrinking_averages_instead_of_aliasing() -> None:
    checks = ((np.arange(64)[:, None] + np.arange(64)) % 2 * 255).astype(np.uint8)
    crop = crop_square(np.repeat(checks[..., None], 3, 2), (0.0, 0.0, 1.0, 1.0), 16, 0.0)
    assert np.abs(crop.astype(int) - 127).max() <= 1


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(UserError, match="left edge"):
        crop_square(noise(8, 8), (0.5, 0.2, 0.5, 0.8), 8)


@pytest.fixture
def encoder(tmp_path: Path) -> IdentityEncoder:
    torch.manual_seed(0)
    config = Dinov2Config(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    side = {"height": 16, "width": 16}
    BitImageProcessor(size={"shortest_edge": 16}, crop_size=side).save_pretrained(tmp_path)
    return IdentityEncoder.from_pretrained(str(tmp_path))


def test_embeddings_are_unit_and_independent_of_the_batch(encoder: IdentityEncoder) -> None:
    images = [noise(20 + n, 30, seed=n) for n in range(5)]
    found = encoder.embed_images(images, batch=2)
    assert torch.allclose(found.norm(dim=-1), torch.ones(5), atol=1e-5)
    assert torch.allclose(found[3:4], encoder.embed_images(images[3:4]), atol=1e-5)
    assert encoder.embed_images([]).shape == (0, 16)


def test_crops_are_embedded_as_pictures_of_their_own(encoder: IdentityEncoder) -> None:
    image, box = noise(32, 32), (0.25, 0.25, 0.75, 0.75)
    crop = crop_square(image, box, 16)
    assert torch.equal(encoder.embed_crops([image], [box]), encoder.embed_images([crop]))


def test_pixels_carry_gradients(encoder: IdentityEncoder) -> None:
    pixels = torch.rand(1, 3, 16, 16, requires_grad=True)
    encoder.embed_pixels(pixels)[0, 0].backward()
    assert pixels.grad is not None
    assert pixels.grad.abs().sum() > 0
