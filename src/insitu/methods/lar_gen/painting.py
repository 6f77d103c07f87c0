"""From requests to squares at the model's size, denoised with blending, and back to photos."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from insitu.backbones.unet import InpaintBackbone
from insitu.backbones.unet.beside import Beside
from insitu.backbones.unet.guidance import Conditions
from insitu.backbones.unet.sampling import Sampling, Source
from insitu.backbones.unet.squares import Square
from insitu.backbones.zoom import resized
from insitu.methods import Image, Request
from insitu.methods.lar_gen.networks import Settings, image_encoder
from insitu.randomness import rng_for

BATCH = 8
"""Pictures painted at once."""
WHITE = 255
See = Callable[..., Beside]
"""What the main U-Net sees of subjects, see `LarGen._beside`."""


def paint(
    backbone: InpaintBackbone, requests: Sequence[Request], own: Settings, see: See
) -> list[Image]:
    """Each photo with its place filled; what lies outside of it stays as it was."""
    squares = [Square.of(request, own.context, backbone.size) for request in requests]
    painted: list[Image] = []
    for start in range(0, len(requests), BATCH):
        part = slice(start, start + BATCH)
        pictures = _batch(backbone, requests[part], squares[part], own, see)
        painted += [
            square.paste(picture) for square, picture in zip(squares[part], pictures, strict=True)
        ]
    return painted


def _batch(
    backbone: InpaintBackbone, requests: Sequence[Request], squares: Sequence[Square],
    own: Settings, see: See,
) -> list[Image]:  # fmt: skip
    sampling = Sampling(
        scheduler=own.scheduler, steps=own.steps, guidance_scale=own.guidance_scale,
        rescale=own.rescale,
    )  # fmt: skip
    images, masks = (np.stack([getattr(s, name) for s in squares]) for name in ("image", "mask"))
    told = Conditions(
        mask=backbone.latent_mask(masks),
        holed=backbone.encode_holed(images, masks),
        text=backbone.encode_text(tuple(request.prompt for request in requests)),
        untold=backbone.encode_text(tuple(r.negative_prompt or "" for r in requests)),
    )
    subjects = _Subjects.of(backbone, requests, own)
    height, width = images.shape[1:3]
    noise = backbone.noise([request.seed for request in requests], height, width)
    steps = backbone.denoising(sampling)

    def guess(z: Tensor, t: Tensor) -> Tensor:
        def seen() -> Beside:
            return see(
                backbone, subjects.features, subjects.present, beta=own.beta,
                t=t.round().long().expand(len(z)), noise=subjects.noise,
                subject=subjects.latents if bool(subjects.present.any()) else None,
            )  # fmt: skip

        return told.guess(backbone, z, t, sampling, see=seen, see_both=lambda: _twice(seen(), own))

    source = Source(latents=backbone.encode(images), noise=noise, mask=told.mask)
    latents, _ = steps.run(steps.start(noise), guess, source=source)
    return backbone.pictures(latents)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Subjects:
    """Subjects' pictures, encoded, with noise of their own; `present` = which requests have one."""

    features: Tensor
    latents: Tensor
    noise: Tensor
    present: Tensor

    @classmethod
    def of(
        cls, backbone: InpaintBackbone, requests: Sequence[Request], own: Settings
    ) -> "_Subjects":
        size = own.subject_size or backbone.size
        given = [request.placements[0].reference for request in requests]
        squares = [subject_square(reference, size) for reference in given]
        seeds = [int(rng_for("lar_gen", r.seed).integers(2**31)) for r in requests]
        return cls(
            features=image_encoder(own, backbone.device).features(squares),
            latents=backbone.encode(np.stack(squares)),
            noise=backbone.noise(seeds, size, size),
            present=torch.tensor([one is not None for one in given], device=backbone.device),
        )


def subject_square(reference: Image | None, size: int) -> Image:
    """The subject's picture in the middle of a white square of `size`; without one, white."""
    square = np.full((size, size, 3), WHITE, np.uint8)
    if reference is None:
        return square
    height, width = reference.shape[:2]
    scale = size / max(height, width)
    high, wide = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - high) // 2, (size - wide) // 2
    square[top : top + high, left : left + wide] = resized(reference, high, wide)
    return square


def _twice(seen: Beside, own: Settings) -> Beside:
    """For both passes of guidance; the first drops Assign, and keeps what Refine gives or drops
    that, too.
    """
    present = seen.present
    if present is not None:
        present = torch.cat([torch.zeros_like(present) if own.guide_refine else present, present])
    return Beside(
        tokens=None if seen.tokens is None else torch.cat([seen.tokens, seen.tokens]),
        beta=None if seen.beta is None else torch.cat([torch.zeros_like(seen.beta), seen.beta]),
        features={layer: torch.cat([c, c]) for layer, c in seen.features.items()},
        present=present,
    )
