"""DreamMix's tuning core: LoRA on keys, values and outputs, and the masked weighted loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.unet import InpaintBackbone, Text
from insitu.backbones.zoom import Window, box_mask
from insitu.errors import UserError
from insitu.methods import Accepts, Example, Image, Request, Told
from insitu.methods.dreammix.data import REGULAR

ADAPTER, PREFIX = "dreammix", "unet."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        rank: of the LoRA matrices.
        targets: the ends of names of the layers that get them.
        inside, outside: weights tau1 and tau2 of the loss within and outside of the mask.
        beta: weight of the regularization images' loss.
        steps, guidance_scale: of sampling.
        context: how much longer the painted square's side is than the box's, as a share.
    """

    rank: int
    targets: tuple[str, ...]
    inside: float
    outside: float
    beta: float
    steps: int
    guidance_scale: float
    context: float


class DreamMix:
    """The four verbs on an SDXL inpainting U-Net."""

    name = "dreammix"
    base = "sdxl_inpaint"
    accepts = Accepts(placements=(1, 1))
    drops: frozenset[str] = frozenset()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def attach(self, backbone: InpaintBackbone) -> nn.ModuleDict:
        """Add LoRA to the U-Net's attention; B starts at zero, so nothing changes yet.

        Raises:
            UserError: a target names no layer of this U-Net.
        """
        config = LoraConfig(
            r=self.settings.rank,
            lora_alpha=self.settings.rank,
            target_modules=list(self.settings.targets),
        )
        return adapters.attach(backbone.unet, config, ADAPTER)

    def detach(self, backbone: InpaintBackbone) -> None:
        adapters.detach(backbone.unet)

    def state(self, backbone: InpaintBackbone) -> dict[str, Tensor]:
        """PEFT's names under diffusers' prefix: `load_lora_weights` reads the file as it is."""
        return adapters.state(backbone.unet, ADAPTER, prefix=PREFIX)

    def load(self, backbone: InpaintBackbone, state: Mapping[str, Tensor]) -> None:
        self.attach(backbone)
        try:
            adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        except UserError:
            self.detach(backbone)
            raise
        adapters.fill(backbone.unet, ADAPTER, state, prefix=PREFIX)

    def condition(self, backbone: InpaintBackbone, examples: Sequence[Example]) -> Told:
        """Clean latents, mask [B, 1, h, w], latents of the holed picture, whether it is regular.

        Raises:
            UserError: a mask is too thin to cover a latent cell.
        """
        images = np.stack([example.image for example in examples])
        masks = np.stack([_mask(example) for example in examples])
        mask = backbone.latent_mask(masks)
        for example, own_mask in zip(examples, mask, strict=True):
            if not own_mask.any():
                raise UserError(
                    f"The example {example.id!r} was to be encoded.",
                    "Its mask covers no cell of the latents, so there is nothing to fill.",
                    "Give its thing a larger box, or a photo in which it is larger.",
                )
        # A picture comes with many masks, one after the other.
        own = list({id(example.image): example.image for example in examples}.values())
        which = [next(k for k, image in enumerate(own) if image is e.image) for e in examples]
        return {
            "z_0": backbone.encode(np.stack(own))[which],
            "mask": mask,
            "holed": backbone.encode_holed(images, masks),
            "regular": torch.tensor([example.pool == REGULAR for example in examples]),
        }

    def loss(
        self, backbone: InpaintBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """L = L_RE(subject) + beta L_RE(regular), where L_RE = mean of
        tau1 m |e - eps|^2 + tau2 (1 - m) |e - eps|^2; `t` [B] in [0, 1), 1 = noise.
        A base that predicts the velocity has it in the noise's place.
        """
        z_0, m, own = told["z_0"], told["mask"], self.settings
        timestep = backbone.timesteps(t)
        z_t = backbone.schedule.add_noise(z_0, noise, timestep)
        text = Text(told["text.context"], told["text.pooled"])
        predicted = backbone.predict(z_t, timestep, m, told["holed"], text)
        error = (predicted - backbone.target(z_0, noise, timestep)).square()
        l_re = ((own.inside * m + own.outside * (1 - m)) * error).mean((1, 2, 3))
        regular = told["regular"]
        return {
            "subject": torch.where(regular, 0.0, l_re),
            "regular": torch.where(regular, own.beta * l_re, 0.0),
        }

    def paint(self, backbone: InpaintBackbone, requests: Sequence[Request]) -> list[Image]:
        """Fill each request's box on a square around it, at the model's own size."""
        size, settings = backbone.size, self.settings
        for request in requests:
            self.accepts.require(self.name, request)
        boxes = [request.placements[0].box_xyxy01 for request in requests]
        windows = [
            Window.around(box, r.image, context=settings.context)
            for box, r in zip(boxes, requests, strict=True)
        ]
        masks = [box_mask(box, r.image) for box, r in zip(boxes, requests, strict=True)]
        filled = backbone.fill(
            [w.cut(r.image, size) for w, r in zip(windows, requests, strict=True)],
            [w.cut(mask, size) for w, mask in zip(windows, masks, strict=True)],
            [r.prompt for r in requests],
            [r.seed for r in requests],
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
        )
        return [
            w.paste(r.image, picture, mask)
            for w, r, picture, mask in zip(windows, requests, filled, masks, strict=True)
        ]


def _mask(example: Example) -> Image:
    assert example.mask is not None  # `examples` gives each one
    return example.mask
