"""Denoising with latent blending, by DDIM or Euler, with guidance over all conditions at once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from torch import Tensor

from insitu import progress

Guess = Callable[[Tensor, Tensor], Tensor]
"""Latents as the U-Net takes them [B, C, h, w] and a timestep [] -> what it predicts."""
SCHEDULERS = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How latents are denoised.

    Attributes:
        scheduler: own = the checkpoint's.
        guidance_scale: w of eps(nothing) + w (eps(all) - eps(nothing)); 1 = one pass.
        rescale: phi of Lin et al. 2023, eq. 16: 0 = off.
    """

    scheduler: Literal["own", "ddim", "euler"]
    steps: int
    guidance_scale: float
    rescale: float = 0.0

    @property
    def guides(self) -> bool:
        return self.guidance_scale > 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What stays as it is: latents and noise [B, C, h, w], mask [B, 1, h, w], 1 = to be filled."""

    latents: Tensor
    noise: Tensor
    mask: Tensor


class Denoising:
    """Steps of a scheduler, along which latents follow predictions from any step to any other.

    Attributes:
        steps: how many there are.
    """

    def __init__(self, own: Any, sampling: Sampling, device: torch.device) -> None:
        """`own` = the checkpoint's scheduler."""
        self._kind: Any = (
            type(own) if sampling.scheduler == "own" else SCHEDULERS[sampling.scheduler]
        )
        self._config, self._sampling, self._device = own.config, sampling, device
        self._still = self._fresh()
        self.steps = len(self._still.timesteps)

    def start(self, noise_BChw: Tensor) -> Tensor:
        """Latents before the first step."""
        return noise_BChw * self._still.init_noise_sigma

    def noised(self, latents_BChw: Tensor, noise_BChw: Tensor, step: int) -> Tensor:
        """Clean latents as they are before a step; after the last one, as they are."""
        if step == self.steps:
            return latents_BChw
        times = self._still.timesteps[step].expand(len(latents_BChw))
        _begin(self._still, step)
        return self._still.add_noise(latents_BChw, noise_BChw, times)

    @torch.no_grad()
    def run(
        self,
        latents_BChw: Tensor,
        guess: Guess,
        *,
        source: Source | None = None,
        first: int = 0,
        last: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Latents after the steps from `first` to before `last`, and the clean ones then predicted.

        After each step latents outside of the mask become the source's of that noise level
        (LAR-Gen, eq. 3; DreamMix, eq. 5).
        """
        scheduler = self._fresh()  # it counts its own steps
        _begin(scheduler, first)
        z = clean = latents_BChw
        todo = range(first, self.steps if last is None else last)
        for step in progress.steps(todo, total=self.steps, first=first):
            t = scheduler.timesteps[step]
            done = scheduler.step(guess(scheduler.scale_model_input(z, t), t), t, z)
            z, clean = done.prev_sample, done.pred_original_sample
            if source is not None:
                kept = self.noised(source.latents, source.noise, step + 1)
                z = kept * (1 - source.mask) + z * source.mask
                clean = source.latents * (1 - source.mask) + clean * source.mask
        return z, clean

    def _fresh(self) -> Any:
        # DDIM's own default is for pixels: it would cut latents off at 1.
        more = {"clip_sample": False} if self._kind is DDIMScheduler else {}
        made = self._kind.from_config(self._config, **more)
        made.set_timesteps(self._sampling.steps, device=self._device)
        return made


def _begin(scheduler: Any, step: int) -> None:
    """Some look for the step among their times, by number, where they are not told."""
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(step)


def guided(told: Tensor, untold: Tensor, sampling: Sampling) -> Tensor:
    """eps(nothing) + w (eps(all) - eps(nothing)), its spread moved towards that of eps(all)."""
    full = untold + sampling.guidance_scale * (told - untold)
    if not sampling.rescale:
        return full
    axes = tuple(range(1, full.ndim))
    spread = told.std(axes, keepdim=True) / full.std(axes, keepdim=True)
    return sampling.rescale * (full * spread) + (1 - sampling.rescale) * full
