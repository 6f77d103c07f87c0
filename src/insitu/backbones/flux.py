"""FLUX: a frozen transformer that learns and paints through branches.

Latents are [B, C, h, w]; the transformer's tokens are 2 x 2 latent cells. Text and pixels are
encoded by the pipeline's own parts, so a base of any size behaves as it does in plain diffusers.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray
from torch import Tensor

from insitu import progress
from insitu.backbones.branches import BranchTransformer, branching
from insitu.backbones.empty import empty_pipeline
from insitu.backbones.loading import base_digest
from insitu.backbones.precision import PLAIN, Precision, load_pipeline
from insitu.errors import UserError
from insitu.params import FluxCheckpoint

Image = NDArray[np.uint8]
Velocity = Callable[[Tensor, Tensor], Tensor]
"""x_t [B, C, h, w] and t [B] in 0..1, 1 = noise -> dx/dt [B, C, h, w]."""


@dataclass(frozen=True)
class Text:
    """Encoded prompts: T5's tokens [B, T, D], CLIP's pooled vector [B, P]."""

    tokens: Tensor
    pooled: Tensor


class FluxBackbone:
    """The frozen checkpoint; what a method attaches to `transformer` is all that learns.

    Attributes:
        size: side in pixels of the pictures that it works on.
        words: length of encoded prompts in tokens.
    """

    def __init__(
        self,
        pipeline: Any,
        *,
        checkpoint: FluxCheckpoint,
        digest: str,
        precision: Precision = PLAIN,
    ) -> None:
        self.pipeline, self.checkpoint, self.digest = pipeline, checkpoint, digest
        self.precision = precision
        self.size, self.words = checkpoint.size, checkpoint.max_sequence_length
        for part in (pipeline.vae, pipeline.transformer):
            part.requires_grad_(False).eval()
        for part in (pipeline.text_encoder, pipeline.text_encoder_2):
            part.requires_grad_(False).eval()
        branching(pipeline.transformer)
        self._require_size()
        self.encode_text = functools.lru_cache(maxsize=16)(self._encode_text)

    @classmethod
    def load(
        cls, checkpoint: FluxCheckpoint, *, device: torch.device, precision: Precision = PLAIN
    ) -> Self:
        """Load a pipeline's folder or pinned hub id.

        Raises:
            UserError: it is incomplete, its size does not fit, or the precision cannot be had here.
        """
        pipeline = load_pipeline(FluxPipeline, checkpoint, device=device, precision=precision)
        pipeline.set_progress_bar_config(disable=True)
        digest = base_digest(checkpoint)
        return cls(pipeline, checkpoint=checkpoint, digest=digest, precision=precision)

    @classmethod
    def empty(cls, checkpoint: FluxCheckpoint, *, precision: Precision = PLAIN) -> Self:
        """The same parts in the same shapes with weights that were never read, for memory plans."""
        pipeline = empty_pipeline(FluxPipeline, checkpoint, precision.dtype)
        return cls(pipeline, checkpoint=checkpoint, digest="", precision=precision)

    @staticmethod
    def size_of(checkpoint: FluxCheckpoint) -> int:
        """Side in pixels of the pictures that methods work on."""
        return checkpoint.size

    @property
    def transformer(self) -> BranchTransformer:
        found: BranchTransformer = self.pipeline.transformer
        return found

    @property
    def denoiser(self) -> BranchTransformer:
        """What learns and is spread over devices."""
        return self.transformer

    @property
    def device(self) -> torch.device:
        return self.pipeline.vae.device  # an offloaded transformer is elsewhere between its calls

    @property
    def stride(self) -> int:
        """Pixels of a token's side."""
        return 2 * int(self.pipeline.vae_scale_factor)

    @property
    def width(self) -> int:
        """Of the transformer's tokens."""
        return int(self.transformer.inner_dim)

    def fitting(self, height: int, width: int) -> tuple[int, int]:
        """A size with about as many pixels as the base's and a photo's proportions, in tokens."""
        scale = self.size / (height * width) ** 0.5
        high, wide = (max(1, round(side * scale / self.stride)) for side in (height, width))
        return high * self.stride, wide * self.stride

    @torch.no_grad()
    def _encode_text(self, prompts: tuple[str, ...]) -> Text:
        tokens, pooled, _ = self.pipeline.encode_prompt(
            list(prompts), prompt_2=None, device=self.device, max_sequence_length=self.words
        )
        return Text(tokens, pooled)

    def too_long(self, prompt: str) -> int:
        """How many tokens of a prompt would be cut off, 0 if it fits."""
        return max(0, len(self.pipeline.tokenizer_2(prompt).input_ids) - self.words)

    @torch.no_grad()
    def encode(self, images_BHWC: Image) -> Tensor:
        """uint8 pictures [B, H, W, 3] -> float32 latents [B, C, h, w], scaled posterior means."""
        vae = self.pipeline.vae
        pixels = torch.from_numpy(images_BHWC).permute(0, 3, 1, 2).to(self.device, vae.dtype)
        mean = vae.encode(pixels / 127.5 - 1).latent_dist.mean
        return (mean.float() - vae.config.shift_factor) * vae.config.scaling_factor

    def decode(self, latents_BChw: Tensor) -> Tensor:
        """Latents -> pixels [B, 3, H, W] in -1..1 and a little beyond; differentiable."""
        vae = self.pipeline.vae
        plain = latents_BChw / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(plain.to(vae.dtype), return_dict=False)[0]

    @torch.no_grad()
    def pictures(self, latents_BChw: Tensor) -> list[Image]:
        """Latents -> uint8 pictures [H, W, 3]."""
        pixels = self.decode(latents_BChw).float().clamp(-1, 1).permute(0, 2, 3, 1)
        return list(((pixels + 1) * 127.5).round().cpu().numpy().astype(np.uint8))

    def noise(self, seeds: Sequence[int], height: int, width: int) -> Tensor:
        """Each picture's own noise [B, C, h, w], as diffusers draws it, for a size in pixels."""
        factor, channels = self.pipeline.vae_scale_factor, self.pipeline.vae.config.latent_channels
        shape = 1, channels, height // factor, width // factor
        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.cat(drawn).to(self.device)

    @torch.no_grad()
    def sample(
        self,
        noise_BChw: Tensor,
        velocity: Velocity,
        *,
        steps: int,
        after: Callable[[Tensor, float], Tensor] | None = None,
    ) -> Tensor:
        """Follow the velocity from noise to a picture, by the checkpoint's own scheduler.

        Args:
            after: makes of each step's x_t, and of t, the x_t to go on with.
        """
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        config = scheduler.config
        slope = (config.max_shift - config.base_shift) / (
            config.max_image_seq_len - config.base_image_seq_len
        )
        tokens = noise_BChw.shape[-2] * noise_BChw.shape[-1] // 4
        mu = config.base_shift + slope * (tokens - config.base_image_seq_len)
        sigmas = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(sigmas=sigmas, device=noise_BChw.device, mu=mu)
        scheduler.set_begin_index(0)  # else it looks for the time among its own, by number
        x = noise_BChw
        for k, step in enumerate(progress.steps(scheduler.timesteps, total=steps)):
            t = (step / config.num_train_timesteps).expand(len(x))
            x = scheduler.step(velocity(x, t), step, x, return_dict=False)[0]
            if after is not None:
                x = after(x, float(scheduler.sigmas[k + 1]))
        return x

    def _require_size(self) -> None:
        if self.size % self.stride:
            raise UserError(
                f"{self.checkpoint.path} is to work on {self.size} x {self.size} pixels.",
                f"Its tokens are {self.stride} pixels wide, and {self.size} is no multiple of it.",
                f"Set models.flux.size to a multiple of {self.stride}.",
            )


def pack(latents_BChw: Tensor) -> Tensor:
    """Latents -> tokens [B, h w / 4, 4 C], each 2 x 2 cells, in FluxPipeline's order."""
    b, c, h, w = latents_BChw.shape
    cells = latents_BChw.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(b, h * w // 4, 4 * c)


def unpack(tokens_BNC: Tensor, height: int, width: int) -> Tensor:
    """The inverse of `pack`; `height` and `width` in latent cells."""
    b, _, c = tokens_BNC.shape
    cells = tokens_BNC.reshape(b, height // 2, width // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(b, c // 4, height, width)


def positions(
    height: int, width: int, *, kind: float = 0, columns: float = 0, rows: float = 0
) -> Tensor:
    """Position ids (type, row, column) [h w / 4, 3] of packed latents, moved by rows and columns.

    Args:
        height, width: in latent cells.
        kind: the first number; 0 for pictures.
    """
    grid = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    ids = torch.stack([torch.full(grid[0].shape, kind), grid[0] + rows, grid[1] + columns], -1)
    return ids.reshape(-1, 3).float()


def token_mask(masks_BHW: Image, stride: int) -> Tensor:
    """Pixels' masks (255 = in) -> tokens': bool [B, N], true where any pixel of a token is in."""
    b, height, width = masks_BHW.shape
    cells = (masks_BHW > 127).reshape(b, height // stride, stride, width // stride, stride)
    return torch.from_numpy(cells.any((2, 4)).reshape(b, -1))
