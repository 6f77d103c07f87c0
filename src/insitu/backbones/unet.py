"""Stable Diffusion XL inpainting: a frozen base that learns and paints through what is attached.

The U-Net takes [z_t ; mask ; Enc(image outside the mask)] on 9 channels. Text and pixels are
encoded by the pipeline's own parts, so a base of any size behaves as it does in plain diffusers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDPMScheduler, StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from torch import Tensor

from insitu.backbones.empty import empty_pipeline
from insitu.backbones.loading import base_digest
from insitu.backbones.precision import PLAIN, Precision, load_pipeline, require_trainable
from insitu.errors import UserError
from insitu.params import Checkpoint

Image = NDArray[np.uint8]
BATCH = 8
"""Pictures painted at once."""
PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Text:
    """Encoded prompts: context [B, T, D] of both encoders, pooled [B, P] of the second."""

    context: Tensor
    pooled: Tensor


class InpaintBackbone:
    """The frozen checkpoint; what a method attaches to `unet` is all that learns."""

    def __init__(
        self, pipeline: Any, *, checkpoint: Checkpoint, digest: str, precision: Precision = PLAIN
    ) -> None:
        self.pipeline, self.checkpoint, self.digest = pipeline, checkpoint, digest
        self.precision = precision
        for module in (pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
            module.requires_grad_(False).eval()
        self.schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.encode_text = functools.lru_cache(maxsize=4096)(self._encode_text)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, device: torch.device, precision: Precision = PLAIN
    ) -> Self:
        """Load a pipeline's folder or pinned hub id.

        Raises:
            UserError: it is incomplete, its U-Net does not take 9 channels, it predicts something
                other than the noise or the velocity, or the precision cannot be had here.
        """
        _require_range(checkpoint, precision)
        pipeline = load_pipeline(
            StableDiffusionXLInpaintPipeline, checkpoint, device=device, precision=precision
        )
        pipeline.set_progress_bar_config(disable=True)
        channels = pipeline.unet.config.in_channels
        if channels != 9:
            raise UserError(
                f"{checkpoint.path} was given as the inpainting base.",
                f"Its U-Net takes {channels} channels; one for inpainting takes 9 (latents, mask,"
                " masked picture).",
                "Give an inpainting checkpoint.",
            )
        kind = pipeline.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise UserError(
                f"{checkpoint.path} was given as the inpainting base.",
                f"Its schedule predicts {kind!r}; losses here are of {' or '.join(PREDICTIONS)}.",
                "Give a checkpoint that predicts the noise or the velocity.",
            )
        digest = base_digest(checkpoint)
        return cls(pipeline, checkpoint=checkpoint, digest=digest, precision=precision)

    @classmethod
    def empty(cls, checkpoint: Checkpoint, *, precision: Precision = PLAIN) -> Self:
        """The same parts in the same shapes with weights that were never read, for memory plans.

        It is not quantized, whatever the precision says.

        Raises:
            UserError: a configuration is missing, or the dtype is float16.
        """
        _require_range(checkpoint, precision)
        pipeline = empty_pipeline(StableDiffusionXLInpaintPipeline, checkpoint, precision.dtype)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, checkpoint=checkpoint, digest="", precision=precision)

    @property
    def unet(self) -> Any:
        return self.pipeline.unet

    @property
    def denoiser(self) -> Any:
        """What learns and is spread over devices."""
        return self.unet

    @property
    def device(self) -> torch.device:
        return self.pipeline.vae.device  # an offloaded U-Net is elsewhere between its calls

    @property
    def size(self) -> int:
        """Side in pixels of the pictures it was trained on."""
        return int(self.unet.config.sample_size * self.pipeline.vae_scale_factor)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of those pictures' latents."""
        side = int(self.unet.config.sample_size)
        return int(self.pipeline.vae.config.latent_channels), side, side

    @torch.no_grad()
    def _encode_text(self, prompts: tuple[str, ...]) -> Text:
        context, _, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), device=self.device, num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        return Text(context, pooled)

    @torch.no_grad()
    def encode(self, images_BHWC: Image) -> Tensor:
        """uint8 pictures [B, H, W, 3] -> float32 latents [B, C, h, w], scaled posterior means."""
        vae = self.pipeline.vae
        pixels = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).to(self.device, vae.dtype)
        mean = vae.encode(pixels / 127.5 - 1).latent_dist.mean
        return mean.float() * vae.config.scaling_factor

    def encode_holed(self, images_BHWC: Image, masks_BHW: Image) -> Tensor:
        """Latents of pictures whose masked part (255 = fill) is mid-gray, as the pipeline does."""
        holed = np.where(masks_BHW[..., None] > 127, np.uint8(128), images_BHWC)
        return self.encode(holed)

    def latent_mask(self, masks_BHW: Image) -> Tensor:
        """Masks at the latents' size: float [B, 1, h, w], 1 = fill, nearest as in the pipeline."""
        masks = torch.from_numpy((masks_BHW > 127).astype(np.float32))[:, None]
        scale = 1 / self.pipeline.vae_scale_factor
        return torch.nn.functional.interpolate(masks, scale_factor=scale).to(self.device)

    def timesteps(self, t_B: Tensor) -> Tensor:
        """The schedule's steps, whole numbers from 0, for times in [0, 1)."""
        return (t_B * self.schedule.config.num_train_timesteps).long()

    def target(self, z_0_BChw: Tensor, noise_BChw: Tensor, t_B: Tensor) -> Tensor:
        """What the U-Net learned to predict at z_t = a z_0 + s noise.

        The noise, or the velocity a noise - s z_0 (Salimans & Ho 2022, appendix D).
        """
        if self.schedule.config.prediction_type == "epsilon":
            return noise_BChw
        return self.schedule.get_velocity(z_0_BChw, noise_BChw, t_B)

    def predict(
        self, z_t_BChw: Tensor, t_B: Tensor, mask_B1hw: Tensor, holed_BChw: Tensor, text: Text
    ) -> Tensor:
        """The U-Net's guess of `target` [B, C, h, w] at timesteps `t_B` in 0..999, in z_t's dtype.

        Raises:
            UserError: a gradient is wanted, and the base is offloaded.
        """
        if torch.is_grad_enabled():
            require_trainable(self.precision)
        dtype = self.precision.dtype
        height, width = (side * self.pipeline.vae_scale_factor for side in z_t_BChw.shape[-2:])
        time_ids = torch.tensor([height, width, 0, 0, height, width], device=z_t_BChw.device)
        added = {
            "text_embeds": text.pooled.to(dtype),
            "time_ids": time_ids.expand(len(z_t_BChw), -1).to(dtype),
        }
        guess = self.unet(
            torch.cat([z_t_BChw, mask_B1hw, holed_BChw], 1).to(dtype), t_B,
            encoder_hidden_states=text.context.to(dtype), added_cond_kwargs=added,
            return_dict=False,
        )[0]  # fmt: skip
        return guess.to(z_t_BChw.dtype)

    @torch.no_grad()
    def fill(
        self,
        images: Sequence[Image],
        masks: Sequence[Image],
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance_scale: float,
    ) -> list[Image]:
        """Fill each mask (uint8 [H, W], 255 = fill) from its prompt; all pictures of one size.

        Picture i depends on its own arguments and seed, up to the batch's rounding.
        """
        filled: list[Image] = []
        for start in range(0, len(images), BATCH):
            part = slice(start, start + BATCH)
            filled += self._fill(
                np.stack(images[part]), np.stack(masks[part]), prompts[part], seeds[part],
                steps, guidance_scale,
            )  # fmt: skip
        return filled

    def _fill(
        self,
        images_BHWC: Image,
        masks_BHW: Image,
        prompts: Sequence[str],
        seeds: Sequence[int],
        steps: int,
        guidance_scale: float,
    ) -> list[Image]:
        height, width = images_BHWC.shape[1:3]
        drawn = self.pipeline(
            prompt=list(prompts), negative_prompt=[""] * len(prompts),
            image=images_BHWC.astype(np.float32) / 255,
            mask_image=torch.from_numpy((masks_BHW > 127).astype(np.float32))[:, None],
            height=height, width=width, strength=1.0,
            num_inference_steps=steps, guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds], output_type="np",
        ).images  # fmt: skip
        return list(np.rint(drawn * 255).astype(np.uint8))


def _require_range(checkpoint: Checkpoint, precision: Precision) -> None:
    if precision.dtype == torch.float16:
        raise UserError(
            f"{checkpoint.path} was to be loaded in float16.",
            "SDXL's autoencoder overflows in it, and so do gradients without loss scaling.",
            "Set `dtype` to bfloat16 or float32.",
        )
