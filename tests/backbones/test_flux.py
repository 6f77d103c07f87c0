"""The FLUX backbone paints what plain diffusers paints, and its geometry is the pipeline's.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.backbones.branches import Branch, Inputs, Layout, everything
from insitu.backbones.flux import FluxBackbone, pack, positions, token_mask, unpack
from insitu.errors import UserError
from insitu.params import FluxCheckpoint

CPU = torch.device("cpu")


def load(checkpoints: dict[str, Path], size: int = 16, words: int = 16) -> FluxBackbone:
    path = str(checkpoints["flux"])
    checkpoint = FluxCheckpoint(path=path, size=size, max_sequence_length=words)
    return FluxBackbone.load(checkpoint, device=CPU)


@torch.no_grad()
def test_it_paints_what_diffusers_paints(checkpoints: dict[str, Path]) -> None:
    plain = FluxPipeline.from_pretrained(checkpoints["flux"], dtype=torch.float32)
    plain.set_progress_bar_config(disable=True)
    prompts, seeds = ["a red mug", "a blue cat"], [3, 4]
    expected = plain(
        prompts, height=16, width=16, num_inference_steps=3, guidance_scale=2.0,
        max_sequence_length=16, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
    ).images  # fmt: skip
    base = load(checkpoints)
    text = base.encode_text(tuple(prompts))
    noise = base.noise(seeds, 16, 16)
    height, width = noise.shape[-2:]
    layout = Layout(
        [
            Branch(name="text", ids=torch.zeros(base.words, 3), space="text"),
            Branch(name="image", ids=positions(height, width)),
        ],
        everything(("text", "image")),
    )

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        told = Inputs(
            tokens={"text": text.tokens, "image": pack(x)}, pooled=text.pooled, t=t,
            guidance=torch.full_like(t, 2.0),
        )  # fmt: skip
        return unpack(base.transformer(layout=layout, inputs=told), height, width)

    painted = base.pictures(base.sample(noise, velocity, steps=3))
    for found, wanted in zip(painted, expected, strict=True):
        assert np.abs(found.astype(int) - np.rint(wanted * 255).astype(int)).max() <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_packing_is_the_pipelines_and_comes_back(
    channels: int, height: int, width: int, seed: int
) -> None:
    shape = 2, channels, 2 * height, 2 * width
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    packed = pack(latents)
    assert torch.equal(packed, FluxPipeline._pack_latents(latents, *shape))
    assert torch.equal(unpack(packed, 2 * height, 2 * width), latents)
    ids = FluxPipeline._prepare_latent_image_ids(1, height, width, CPU, torch.float32)
    assert torch.equal(positions(2 * height, 2 * width), ids)
    moved = positions(2 * height, 2 * width, kind=1, columns=7, rows=0.5)
    assert torch.equal(moved, ids + torch.tensor([1, 0.5, 7]))


def test_a_token_is_in_if_any_of_its_pixels_is() -> None:
    mask = np.zeros((1, 8, 16), np.uint8)
    mask[0, 7, 8] = 255
    assert token_mask(mask, 8).tolist() == [[False, True]]
    assert not token_mask(np.full((1, 8, 16), 127, np.uint8), 8).any()


def test_latents_come_back_as_the_autoencoder_gives_them(checkpoints: dict[str, Path]) -> None:
    base = load(checkpoints)
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    latents = base.encode(image)
    pixels = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    plain = base.pipeline.vae.encode(pixels).latent_dist.mean
    config = base.pipeline.vae.config
    torch.testing.assert_close(latents, (plain - config.shift_factor) * config.scaling_factor)
    torch.testing.assert_close(base.decode(latents), base.pipeline.vae.decode(plain).sample)
    latents.requires_grad_()
    base.decode(latents).sum().backward()
    assert latents.grad is not None and latents.grad.any()


def test_sizes_that_do_not_fit_are_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="no multiple"):
        load(checkpoints, size=18)
    base = load(checkpoints, words=4)
    assert base.too_long("a red mug on a wooden table") > 0
    assert base.too_long("a") == 0


def test_a_photos_size_becomes_one_in_tokens(checkpoints: dict[str, Path]) -> None:
    base = load(checkpoints, size=64)
    assert base.fitting(500, 500) == (64, 64)
    assert base.fitting(100, 400) == (32, 128)
    assert base.fitting(1, 4000) == (8, 4048)
