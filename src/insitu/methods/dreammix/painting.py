"""Disentangled inpainting (section 3.2): a square around the place first, then the whole photo.

LCG, local content generation, takes the first lambda T steps on a square around an enlarged mask
m'; what it predicts then is pasted into the photo, and GCH, global context harmonization, takes the
others on the whole photo, with the mask m. The text below the paper's figure 5 has lambda the other
way round; this is the method section's and the released code's.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from torch import Tensor

from insitu.backbones.unet import InpaintBackbone, Text
from insitu.backbones.unet.guidance import Conditions
from insitu.backbones.unet.sampling import Denoising, Guess, Sampling, Source
from insitu.backbones.unet.squares import Square
from insitu.backbones.zoom import blended, resized
from insitu.methods import Image, Request
from insitu.randomness import rng_for

BATCH = 8
"""Pictures painted at once."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How a place is painted.

    Attributes:
        sampling: for both stages.
        local: lambda, the share of the steps that LCG takes.
        enlarge: how much longer the sides of m' are than m's, as a share.
        background: of GCH, outside of m: the photo's, or the intermediate picture's (eq. 6).
        context: how much longer the square's side is than the box's, as a share.
    """

    sampling: Sampling
    local: float
    enlarge: float
    background: Literal["original", "intermediate"]
    context: float


def paint(
    backbone: InpaintBackbone, requests: Sequence[Request], texts: Text, untold: Text, rules: Rules
) -> list[Image]:
    """Each photo with its place filled; what lies outside of it stays as it was.

    Args:
        texts, untold: a row for each request: its prompt, and what guidance leads away from.
    """
    squares = [
        Square.of(request, rules.context, backbone.size, enlarge=rules.enlarge)
        for request in requests
    ]
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        size: tuple[int, ...] = ()
        if rules.local < 1:
            size = backbone.fitting(*request.image.shape[:2])
        alike[size].append(number)
    painted: dict[int, Image] = {}
    for size, numbers in alike.items():
        for start in range(0, len(numbers), BATCH):
            some = numbers[start : start + BATCH]
            batch = _Batch(
                backbone, [requests[n] for n in some], [squares[n] for n in some],
                texts[some], untold[some], rules,
            )  # fmt: skip
            painted |= dict(zip(some, batch.painted(size), strict=True))
    return [painted[number] for number in range(len(requests))]


class _Batch:
    """Requests whose whole photos have one size at the model's scale."""

    def __init__(
        self, backbone: InpaintBackbone, requests: Sequence[Request], squares: Sequence[Square],
        text: Text, untold: Text, rules: Rules,
    ) -> None:  # fmt: skip
        self.backbone, self.requests, self.squares = backbone, requests, squares
        self.text, self.untold, self.rules = text, untold, rules
        self.steps: Denoising = backbone.denoising(rules.sampling)
        self.switch = round(rules.local * self.steps.steps)

    def painted(self, size: tuple[int, ...]) -> list[Image]:
        local = self._local() if self.switch else [None] * len(self.squares)
        if self.switch == self.steps.steps:
            return [s.paste(p) for s, p in zip(self.squares, local, strict=True) if p is not None]
        height, width = size
        return self._whole(local, height, width)

    def _local(self) -> list[Image]:
        """LCG's squares as it predicts them when its steps are over."""
        images, masks = (np.stack([getattr(s, n) for s in self.squares]) for n in ("image", "mask"))
        noise = self.backbone.noise([r.seed for r in self.requests], *images.shape[1:3])
        told, source = self._told(images, masks, noise, kept=images)
        _, clean = self.steps.run(
            self.steps.start(noise), self._guess(told), source=source, last=self.switch
        )
        return self.backbone.pictures(clean)

    def _whole(self, local: Sequence[Image | None], height: int, width: int) -> list[Image]:
        """GCH from what LCG left, or from noise where it had no steps."""
        photos = [resized(request.image, height, width) for request in self.requests]
        masks = np.stack([_scaled(square.place, height, width) for square in self.squares])
        seeds = [int(rng_for("gch", r.seed).integers(2**31)) for r in self.requests]
        noise = self.backbone.noise(seeds, height, width)
        between = [
            photo if picture is None else resized(square.inserted(picture), height, width)
            for photo, square, picture in zip(photos, self.squares, local, strict=True)
        ]
        kept = np.stack(between if self.rules.background == "intermediate" else photos)
        told, source = self._told(np.stack(photos), masks, noise, kept=kept)
        z = self.steps.start(noise)
        if self.switch:
            z = self.steps.noised(self.backbone.encode(np.stack(between)), noise, self.switch)
        z, _ = self.steps.run(z, self._guess(told), source=source, first=self.switch)
        return [
            _pasted(square, picture)
            for square, picture in zip(self.squares, self.backbone.pictures(z), strict=True)
        ]

    def _told(
        self, images: Image, masks: Image, noise: Tensor, *, kept: Image
    ) -> tuple[Conditions, Source]:
        """What the U-Net is told of pictures, and what stays: the latents of `kept`."""
        backbone = self.backbone
        told = Conditions(
            mask=backbone.latent_mask(masks), holed=backbone.encode_holed(images, masks),
            text=self.text, untold=self.untold,
        )  # fmt: skip
        return told, Source(latents=backbone.encode(kept), noise=noise, mask=told.mask)

    def _guess(self, told: Conditions) -> Guess:
        sampling = self.rules.sampling
        return lambda z, t: told.guess(self.backbone, z, t, sampling)


def _scaled(mask_HW: Image, height: int, width: int) -> Image:
    """A mask at another size: a pixel is in where any part of it was."""
    share = cv2.resize(mask_HW, (width, height), interpolation=cv2.INTER_AREA)
    return np.where(share > 0, np.uint8(255), np.uint8(0))


def _pasted(square: Square, picture: Image) -> Image:
    """The photo with the place from a picture of the whole of it."""
    height, width = square.photo.shape[:2]
    feather = max(1, round(min(height, width) / 48))
    return blended(square.photo, resized(picture, height, width), square.place, feather=feather)
