"""The inpainting U-Nets against diffusers' own pipelines.

Proves for SDXL's and SD1.5's shapes, with U-Nets of 9 and of 4 channels, that prompts, predictions
and denoising are what diffusers' pipelines do with the same weights and noise, and that blending
keeps what lies outside of the mask.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from torch.testing import assert_close

from insitu.backbones.loading import choose_device
from insitu.backbones.unet import InpaintBackbone
from insitu.backbones.unet.families import joined
from insitu.backbones.unet.sampling import Sampling, Source, guided
from insitu.errors import UserError
from insitu.params import Checkpoint
from tests import tiny

CPU = choose_device("cpu")
KINDS = [(family, channels) for family in ("sdxl", "sd") for channels in (9, 4)]
STEPS, SCALE = 3, 4.0


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, channels = request.param
    path = tmp_path_factory.mktemp("unet") / "checkpoint"
    torch.manual_seed(0)
    tiny.inpainting(path, family=family, channels=channels)
    return path


@pytest.fixture(scope="module")
def base(folder: Path) -> InpaintBackbone:
    return InpaintBackbone.load(Checkpoint(path=str(folder)), device=CPU)


def fixed(base: InpaintBackbone) -> dict[str, Any]:
    """A picture, a mask, and noise, the size of the base's."""
    rng = np.random.default_rng(0)
    side = base.size
    image = rng.integers(0, 255, (1, side, side, 3), np.uint8)
    mask = np.zeros((1, side, side), np.uint8)
    mask[:, 8:24, 4:20] = 255
    return {"image": image, "mask": mask, "noise": base.noise([3], side, side)}


@pytest.mark.parametrize("scheduler", ["own", "ddim"])
@pytest.mark.parametrize("rescale", [0.0, 0.5])
def test_it_paints_what_the_pipeline_paints(
    folder: Path, base: InpaintBackbone, scheduler: Any, rescale: float
) -> None:
    given, prompts = fixed(base), ("a red mug", "")
    sampling = Sampling(scheduler=scheduler, steps=STEPS, guidance_scale=SCALE, rescale=rescale)
    mask, holed = (
        base.latent_mask(given["mask"]), base.encode_holed(given["image"], given["mask"])
    )  # fmt: skip
    text, empty = (base.encode_text((prompt,)) for prompt in prompts)
    source = Source(latents=base.encode(given["image"]), noise=given["noise"], mask=mask)
    wide = Checkpoint(path=str(folder))
    pipeline = base.family.pipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    narrow = pipeline.unet.config.in_channels == 4
    more = {"guidance_rescale": rescale} if "XL" in type(pipeline).__name__ else {}
    if not more and rescale:
        pytest.skip("diffusers' pipeline for SD1.5 has no rescale")
    expected = pipeline(
        prompt=prompts[0], negative_prompt="", image=source.latents,
        mask_image=torch.from_numpy(given["mask"] > 127).float()[:, None],
        masked_image_latents=holed, latents=given["noise"], height=base.size, width=base.size,
        strength=1.0, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="latent",
        **more,
    ).images  # fmt: skip

    both = joined([empty, text])

    def guess(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        twice = [torch.cat([x, x]) for x in (z, t.expand(1), mask, holed)]
        untold, told = base.predict(twice[0], twice[1], twice[2], twice[3], both).chunk(2)
        return guided(told, untold, sampling)

    steps = base.denoising(sampling)
    # A pipeline with 9 channels does not blend; with 4 it does nothing else.
    z, _ = steps.run(steps.start(given["noise"]), guess, source=source if narrow else None)
    assert wide.path and z.shape == expected.shape
    assert_close(z, expected, atol=1e-4, rtol=1e-4)


def test_blending_keeps_what_lies_outside_of_the_mask(base: InpaintBackbone) -> None:
    given = fixed(base)
    mask = base.latent_mask(given["mask"])
    source = Source(latents=base.encode(given["image"]), noise=given["noise"], mask=mask)
    for scheduler in ("ddim", "euler"):
        sampling = Sampling(scheduler=scheduler, steps=STEPS, guidance_scale=1.0)  # type: ignore[arg-type]
        steps = base.denoising(sampling)
        z, clean = steps.run(
            steps.start(given["noise"]), lambda z, t: torch.randn_like(z), source=source
        )
        for latents in (z, clean):
            assert torch.equal(latents * (1 - mask), source.latents * (1 - mask))


def test_steps_can_be_taken_in_two_parts(base: InpaintBackbone) -> None:
    given = fixed(base)
    sampling = Sampling(scheduler="own", steps=5, guidance_scale=1.0)
    steps = base.denoising(sampling)

    def guess(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.3 * z + t / 1000

    start = steps.start(given["noise"])
    whole, _ = steps.run(start, guess)
    half, _ = steps.run(start, guess, last=2)
    assert_close(steps.run(half, guess, first=2)[0], whole)


def test_a_perfect_guess_at_once_gives_the_clean_picture(base: InpaintBackbone) -> None:
    """Noise of any step, and the noise as the guess: what it then predicts is what was noised."""
    given = fixed(base)
    steps = base.denoising(Sampling(scheduler="own", steps=5, guidance_scale=1.0))
    z_0 = base.encode(given["image"])
    for step in (0, 2, 4):
        z = steps.noised(z_0, given["noise"], step)
        _, clean = steps.run(z, lambda z, t: given["noise"], first=step, last=step + 1)
        assert_close(clean, z_0, atol=1e-3, rtol=1e-3)


def test_widened_it_predicts_what_it_did(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny.inpainting(tmp_path, family="sd", channels=4)
    base = InpaintBackbone.load(Checkpoint(path=str(tmp_path)), device=CPU)
    pipeline = base.family.pipeline.from_pretrained(tmp_path)
    z, t, text = torch.randn(2, 4, 16, 16), torch.tensor([10, 700]), base.encode_text(("a", "b"))
    expected = pipeline.unet(z, t, encoder_hidden_states=text.context).sample
    got = base.predict(z, t, torch.rand(2, 1, 16, 16), torch.randn(2, 4, 16, 16), text)
    assert_close(got, expected)


def test_a_checkpoint_of_another_family_is_refused(checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="FluxPipeline"):
        InpaintBackbone.load(Checkpoint(path=str(checkpoints["flux"])), device=CPU)
