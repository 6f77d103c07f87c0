"""Proves how EliGen paints: a photo's background stays, by both ways of fusing, requests of all
kinds are painted together as each alone, and a style is what diffusers' IP-Adapter makes of it.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu.backbones.flux import FluxBackbone
from insitu.methods import Placement
from insitu.methods.eligen import EliGen
from insitu.methods.eligen.painting import fused, latents
from tests.backbones.test_image_prompt import write as write_image_prompt
from tests.methods.eligen_parts import (
    RIGHT,
    SETTINGS,
    SIZE,
    WORDS,
    attached,
    base_of,
    mug,
    photo,
    request,
)


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    return base_of(checkpoints)


@pytest.fixture
def trained(base: FluxBackbone) -> Iterator[EliGen]:
    yield from attached(base)


def test_fusion_after_guidance_ends_at_the_source(base: FluxBackbone, trained: EliGen) -> None:
    asked = [request(), request(mug((0.25, 0.5, 0.75, 1.0)), seed=4)]
    source = base.encode(np.stack([one.image for one in asked]))
    inside = torch.zeros(2, 8, 8, dtype=torch.bool)
    inside[0, :, :4] = True
    inside[1, 4:, 2:6] = True

    def outside(fuse: str, scale: float = 3.0) -> torch.Tensor:
        settings = replace(SETTINGS, fuse=fuse, guidance_scale=scale)
        painted = latents(base, asked, settings, SIZE, SIZE)
        assert (painted - source).abs().amax(1)[inside].min() > 1e-3  # the rest is painted
        return (painted - source).abs().amax(1)[~inside].max()

    assert outside("after_cfg") < 1e-5
    assert outside("before_cfg") > 1e-3  # eq. 16-18 leave a share of the negative pass in it
    assert outside("before_cfg", scale=1.0) < 1e-5  # without guidance the orders are one
    assert outside("off") > 1e-3


def test_before_guidance_is_the_papers_formula(base: FluxBackbone) -> None:
    """The background ends at c z_init - (c - 1) x_neg where the negative pass goes to x_neg."""
    z_init, x_neg, noise = (torch.randn(1, 16, 4, 4) for _ in range(3))
    inside = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    v = fused(
        lambda x, t: x, lambda x, t: (x - x_neg) / t.view(-1, 1, 1, 1), scale=3.0,
        background=(z_init, inside), before_cfg=True,
    )  # fmt: skip
    painted = base.sample(noise, v, steps=5)
    torch.testing.assert_close(painted, 3 * z_init - 2 * x_neg, rtol=1e-4, atol=1e-4)


def test_without_pasting_what_is_outside_is_what_was_painted(
    base: FluxBackbone, trained: EliGen
) -> None:
    asked, own = request(), replace(SETTINGS, fuse="off")
    pasted, whole = (EliGen(replace(own, paste=p)).paint(base, [asked])[0] for p in (True, False))
    changed = (pasted != whole).any(-1)
    assert changed.any() and (pasted[changed] == asked.image[changed]).all()


@pytest.mark.parametrize("fuse", ["before_cfg", "after_cfg", "off"])
def test_what_is_outside_the_masks_is_the_photo(
    base: FluxBackbone, trained: EliGen, fuse: str
) -> None:
    """For any shape of mask and size of photo."""
    image = photo(height=60, width=44)
    rows, columns = np.mgrid[:60, :44]
    round_mask = (((rows - 20) ** 2 + (columns - 20) ** 2 < 150) * 255).astype(np.uint8)
    asked = request(
        Placement.masked(round_mask, prompt="a red mug"), mug((0.5, 0.6, 0.9, 0.95)), image=image
    )
    method = EliGen(replace(SETTINGS, fuse=fuse))
    (painted,) = method.paint(base, [asked])
    inside = round_mask > 127
    inside[36:57, 22:40] = True
    assert painted.shape == image.shape
    assert np.array_equal(painted[~inside], image[~inside])
    assert (painted[inside] != image[inside]).any(-1).mean() > 0.9
    (whole,) = method.paint(base, [replace(asked, background="free")])
    assert (whole[~inside] != image[~inside]).any(-1).mean() > 0.9


def test_requests_of_all_kinds_together_are_painted_as_each_alone(
    base: FluxBackbone, trained: EliGen
) -> None:
    asked = [
        request(),
        request(mug(), mug(RIGHT), image=photo(1, 24, 40), seed=5),
        request(background="free", negative_prompt="a blue cat"),
        request(mug(RIGHT), seed=9),
    ]
    for together, one in zip(trained.paint(base, asked), asked, strict=True):
        (alone,) = trained.paint(base, [one])
        assert np.abs(together.astype(int) - alone).max() <= 1


def test_a_style_is_what_diffusers_ip_adapter_makes_of_it(
    base: FluxBackbone, trained: EliGen, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """With the adapter and guidance of two passes; and beside entities, each request its own."""
    folder = write_image_prompt(tmp_path / "style", features=16, width=16, blocks=1)
    save_file(trained.state(base), tmp_path / "adapter.safetensors")
    plain = FluxPipeline.from_pretrained(
        checkpoints["flux"], dtype=torch.float32,
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder"),
        feature_extractor=CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16),
    )  # fmt: skip
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    plain.load_ip_adapter(str(folder), weight_name="ip_adapter.safetensors")
    plain.set_ip_adapter_scale(0.5)
    asked = request(background="free", style=photo(7))
    expected = plain(
        asked.prompt, negative_prompt="", true_cfg_scale=3.0, guidance_scale=3.5, height=SIZE,
        width=SIZE, num_inference_steps=SETTINGS.steps, max_sequence_length=WORDS,
        output_type="np", ip_adapter_image=asked.style,
        generator=torch.Generator().manual_seed(asked.seed),
    ).images[0]  # fmt: skip

    method = EliGen(replace(SETTINGS, image_prompt=str(folder), image_prompt_scale=0.5))
    (painted,) = method.paint(base, [replace(asked, placements=())])
    assert np.abs(painted.astype(int) - np.rint(expected * 255).astype(int)).max() <= 1

    several = [asked, replace(asked, style=photo(8)), replace(asked, style=None)]
    pictures = method.paint(base, several)
    assert not np.array_equal(pictures[0], pictures[1])
    assert np.array_equal(pictures[2], trained.paint(base, several[2:])[0])
