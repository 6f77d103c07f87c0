"""The two autoencoders: plain `AutoencoderKL`, one for `flux`, one for `sdxl-inpaint`.

Squared error in pixels, so that PSNR is what is trained; a light KL term only keeps the latents
bounded and a little noise-tolerant (Rombach et al. 2022 use 1e-6 likewise).
"""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from insitu import world
from insitu.evaluation.checkpoints import vae as held_out

from . import corpus, pictures
from .loop import FitResult, fit, seconds_allowed, trapezoid
from .muon import Muon
from .settings import read

PICTURES = 12_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sections `flux-vae` and `sdxl-inpaint-vae` of params.yaml.

    Attributes:
        channels: of each resolution, finest first; each further one halves the picture.
        latent_channels: of the latent.
        steps, batch: optimizer steps and pictures in each.
        crop_steps, crop_batch: the first of these steps, on crops of half the side, four times
            cheaper a picture.
        lr: Muon's, on convolution kernels and matrices; `rest_lr`: AdamW's on everything else.
        warmup, cooldown: steps of their ramps.
        kl_weight: of the KL divergence to N(0, 1), per latent element.
        ema: decay of the weights' average.
    """

    channels: tuple[int, ...]
    latent_channels: int
    steps: int
    batch: int
    crop_steps: int
    crop_batch: int
    lr: float
    rest_lr: float
    warmup: int
    cooldown: int
    kl_weight: float
    ema: float


def make_model(settings: Settings) -> AutoencoderKL:
    """An AutoencoderKL with random weights, without the 1x1 convolutions around the latent."""
    torch.manual_seed(0)
    depth = len(settings.channels)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=tuple(settings.channels),
        layers_per_block=1,
        latent_channels=settings.latent_channels,
        norm_num_groups=8,
        sample_size=pictures.SIZE,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    # Small convolutions run several times faster channels-last on CPUs.
    return model.to(memory_format=torch.channels_last)


def split(model: AutoencoderKL) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Kernels and matrices for Muon; the first and last convolutions, norms and biases the rest."""
    ends = ("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out")
    kernels: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        inner = parameter.ndim > 1 and not name.startswith(ends)
        (kernels if inner else rest).append(parameter)
    return kernels, rest


def to_pixels(images_NHWC: np.ndarray) -> Tensor:
    """uint8 pictures [N, H, W, 3] as float [N, 3, H, W] in -1..1."""
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def train(
    section: str, work: Path, max_seconds: float | None = None
) -> tuple[AutoencoderKL, FitResult]:
    settings = read(section, Settings)
    images = corpus.build("pictures", PICTURES, pictures.picture)["image"]
    model = make_model(settings)
    kernels, rest = split(model)
    optimizers = [
        Muon(kernels, lr=settings.lr),
        torch.optim.AdamW(rest, settings.rest_lr, (0.9, 0.98), weight_decay=0.0),
    ]

    def step(i: int) -> dict[str, Tensor]:
        rng = world.rng_for("vae-batch", i)
        crops = i < settings.crop_steps
        batch = settings.crop_batch if crops else settings.batch
        rows = np.sort(rng.choice(PICTURES, batch, replace=False))
        side = pictures.SIZE // 2 if crops else pictures.SIZE
        top, left = rng.integers(0, pictures.SIZE - side + 1, 2)
        x = to_pixels(images[rows][:, top : top + side, left : left + side])
        x = x.to(memory_format=torch.channels_last)
        posterior = model.encode(x).latent_dist
        error = (model.decode(posterior.sample()).sample - x).square().mean()
        kl = posterior.kl().sum() / posterior.mean.numel()
        return {"error": error, "kl": settings.kl_weight * kl}

    result = fit(
        modules={"vae": model}, optimizers=optimizers, step=step, steps=settings.steps,
        work=work, schedule=trapezoid(settings.steps, settings.warmup, settings.cooldown),
        fingerprint=asdict(settings) | {"world": world.WORLD_VERSION}, ema=settings.ema,
        clip_norm=1.0, samples_per_step=settings.batch, max_seconds=max_seconds,
    )  # fmt: skip
    model.load_state_dict(result.ema_state("vae"))
    return model.eval(), result


def trained(folder: Path) -> AutoencoderKL:
    """The saved autoencoder, to be saved again in a pipeline without the path it came from."""
    model = AutoencoderKL.from_pretrained(folder)
    model.register_to_config(_name_or_path="")
    return model


@torch.no_grad()
def calibrate(model: AutoencoderKL, images_NHWC: np.ndarray) -> None:
    """Set `scaling_factor`, so that scaled latents have spread 1.

    No `shift_factor`: SDXL's pipelines ignore it, and the KL term keeps the mean near 0.
    """
    latents = model.encode(to_pixels(images_NHWC)).latent_dist.mean
    scale = latents.square().mean().rsqrt()
    model.register_to_config(shift_factor=0.0, scaling_factor=round(float(scale), 4))


def main(section: str, folder: str) -> None:
    """Train section `section` and save it to `folder`/vae, bfloat16."""
    root = Path(__file__).resolve().parents[1]
    model, result = train(section, corpus.ROOT / section, seconds_allowed())
    calibrate(model, pictures.held_out(256))
    target = root / folder / "vae"
    model.to(torch.bfloat16).save_pretrained(target)
    for name, figure in held_out.figures(target, count=256).items():
        print(name, figure)
    print(f"{result.step} steps, {result.seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
