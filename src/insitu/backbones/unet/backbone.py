"""An inpainting U-Net: a frozen base that learns and paints through what is attached.

The U-Net takes [z_t ; mask ; Enc(image outside the mask)] on 9 channels (LAR-Gen, eq. 2); one that
takes 4 is widened, or has an inpaint head beside it. Text and pixels are encoded by the pipeline's
own parts, so a base of any size behaves as it does in plain diffusers.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from insitu.backbones.empty import empty_pipeline
from insitu.backbones.loading import base_digest, config_of
from insitu.backbones.precision import PLAIN, Precision, load_pipeline, require_trainable
from insitu.backbones.sharding import restore
from insitu.backbones.unet.families import Family, Text, family_of
from insitu.backbones.unet.inlet import CHANNELS, HEAD, headed, widen
from insitu.backbones.unet.sampling import Denoising, Sampling
from insitu.errors import UserError
from insitu.params import Checkpoint

if TYPE_CHECKING:
    from insitu.backbones.unet.beside import Beside

Image = NDArray[np.uint8]
PREDICTIONS = ("epsilon", "v_prediction")


class InpaintBackbone:
    """The frozen checkpoint; what a method attaches to `unet` is all that learns."""

    def __init__(
        self,
        pipeline: Any,
        family: Family,
        *,
        checkpoint: Checkpoint,
        digest: str,
        precision: Precision = PLAIN,
    ) -> None:
        self.pipeline, self.family = pipeline, family
        self.checkpoint, self.digest, self.precision = checkpoint, digest, precision
        self._original: dict[str, Tensor] | None = None
        for name in ("vae", "unet", *family.encoders):
            getattr(pipeline, name).requires_grad_(False).eval()
        self.schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.encode_text = functools.lru_cache(maxsize=4096)(self._encode_text)

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, *, device: torch.device, precision: Precision = PLAIN
    ) -> Self:
        """Load a pipeline's folder or pinned hub id, SDXL's or SD1.5's.

        Raises:
            UserError: it is incomplete or of another family, its U-Net takes neither 9 channels nor
                4, it predicts something other than the noise or the velocity, or the precision
                cannot be had here.
        """
        _require_range(checkpoint, precision)
        family = family_of(checkpoint)
        pipeline = load_pipeline(family.pipeline, checkpoint, device=device, precision=precision)
        pipeline.set_progress_bar_config(disable=True)
        latents, channels = (
            pipeline.vae.config.latent_channels, pipeline.unet.config.in_channels
        )  # fmt: skip
        if channels not in (CHANNELS, latents):
            raise UserError(
                f"{checkpoint.path} was given as the inpainting base.",
                f"Its U-Net takes {channels} channels; one for inpainting takes {CHANNELS}"
                f" (latents, mask, masked picture), one for text {latents}.",
                "Give a checkpoint of one of the two.",
            )
        kind = pipeline.scheduler.config.prediction_type
        if kind not in PREDICTIONS:
            raise UserError(
                f"{checkpoint.path} was given as the inpainting base.",
                f"Its schedule predicts {kind!r}; losses here are of {' or '.join(PREDICTIONS)}.",
                "Give a checkpoint that predicts the noise or the velocity.",
            )
        if channels != CHANNELS:
            folder = Path(checkpoint.path)
            if (folder / HEAD).exists():
                headed(pipeline.unet, folder)
            else:
                widen(pipeline.unet)
        digest = base_digest(checkpoint)
        return cls(pipeline, family, checkpoint=checkpoint, digest=digest, precision=precision)

    @classmethod
    def empty(cls, checkpoint: Checkpoint, *, precision: Precision = PLAIN) -> Self:
        """The same parts in the same shapes with weights that were never read, for memory plans.

        It is not quantized, whatever the precision says.

        Raises:
            UserError: a configuration is missing, or the dtype is float16.
        """
        _require_range(checkpoint, precision)
        family = family_of(checkpoint)
        pipeline = empty_pipeline(family.pipeline, checkpoint, precision.dtype)
        pipeline.set_progress_bar_config(disable=True)
        if pipeline.unet.config.in_channels != CHANNELS:
            widen(pipeline.unet)
        return cls(pipeline, family, checkpoint=checkpoint, digest="", precision=precision)

    @staticmethod
    def size_of(checkpoint: Checkpoint) -> int:
        """`size` of a checkpoint, from its configurations alone.

        Raises:
            UserError: one is missing.
        """
        unet = config_of(UNet2DConditionModel, checkpoint, "unet")
        vae = config_of(AutoencoderKL, checkpoint, "vae")
        return int(unet["sample_size"]) * 2 ** (len(vae["block_out_channels"]) - 1)

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

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """A size with about as many pixels as the base's and a photo's proportions, that it takes.

        The U-Net halves latents at each level but the last.
        """
        levels = len(self.unet.config.block_out_channels) - 1
        stride = int(self.pipeline.vae_scale_factor) * 2**levels
        scale = self.size / (height * width) ** 0.5
        high, wide = (max(1, round(side * scale / stride)) for side in (height, width))
        return high * stride, wide * stride

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of those pictures' latents."""
        side = int(self.unet.config.sample_size)
        return int(self.pipeline.vae.config.latent_channels), side, side

    @torch.no_grad()
    def _encode_text(self, prompts: tuple[str, ...]) -> Text:
        return self.family.encode(self.pipeline, prompts, self.device)

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
        self,
        z_t_BChw: Tensor,
        t_B: Tensor,
        mask_B1hw: Tensor,
        holed_BChw: Tensor,
        text: Text,
        see: Callable[[], "Beside"] | None = None,
    ) -> Tensor:
        """The U-Net's guess of `target` [B, C, h, w] at timesteps `t_B` in 0..999, in z_t's dtype.

        Args:
            see: gives what attention sees beside; called within the U-Net's pass, so that parts
                of the U-Net that it runs may be spread over devices with it.

        Raises:
            UserError: a gradient is wanted, and the base is offloaded.
        """
        if torch.is_grad_enabled():
            require_trainable(self.precision)
        dtype = self.precision.dtype
        height, width = (side * self.pipeline.vae_scale_factor for side in z_t_BChw.shape[-2:])
        with _seeing(self.unet, see):
            guess = self.unet(
                torch.cat([z_t_BChw, mask_B1hw, holed_BChw], 1).to(dtype), t_B,
                encoder_hidden_states=text.context.to(dtype),
                added_cond_kwargs=self.family.told(text, height, width, dtype),
                return_dict=False,
            )[0]  # fmt: skip
        return guess.to(z_t_BChw.dtype)

    def open(self) -> None:
        """Keep the U-Net's weights, which may change now; `close` puts them back bit for bit."""
        if self._original is None:
            self._original = {k: v.detach().clone() for k, v in self.unet.state_dict().items()}

    def close(self) -> None:
        """The U-Net as the checkpoint has it, frozen."""
        if self._original is not None:
            restore(self.unet, self._original)
            self._original = None
        self.unet.requires_grad_(False)

    def denoising(self, sampling: Sampling) -> Denoising:
        return Denoising(self.pipeline.scheduler, sampling, self.device)

    def noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Each picture's own noise [B, C, h, w], as diffusers draws it, for a size in pixels."""
        factor, channels = self.pipeline.vae_scale_factor, self.pipeline.vae.config.latent_channels
        shape = 1, channels, height // factor, width // factor
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.cat(drawn).to(self.device)

    @torch.no_grad()
    def pictures(self, latents_BChw: Tensor) -> list[Image]:
        """Latents -> uint8 pictures [H, W, 3]."""
        vae = self.pipeline.vae
        plain = (latents_BChw / vae.config.scaling_factor).to(vae.dtype)
        pixels = vae.decode(plain, return_dict=False)[0].float().clamp(-1, 1).permute(0, 2, 3, 1)
        return list(((pixels + 1) * 127.5).round().cpu().numpy().astype(np.uint8))


@contextmanager
def _seeing(unet: Any, see: Callable[[], "Beside"] | None) -> Iterator[None]:
    """Within it, a pass of the U-Net begins with asking what its attention sees beside."""

    def asked(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        assert see is not None
        return args, kwargs | {"cross_attention_kwargs": {"beside": see()}}

    if see is None:
        yield
        return
    hook = unet.register_forward_pre_hook(asked, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _require_range(checkpoint: Checkpoint, precision: Precision) -> None:
    if precision.dtype == torch.float16:
        raise UserError(
            f"{checkpoint.path} was to be loaded in float16.",
            "SDXL's autoencoder overflows in it, and so do gradients without loss scaling.",
            "Set `dtype` to bfloat16 or float32.",
        )
