"""DreamMix: LoRA on a subject, the masked weighted loss, disentangled inpainting, substitution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.unet import InpaintBackbone, Text
from insitu.backbones.unet.families import joined
from insitu.backbones.unet.sampling import Sampling
from insitu.errors import UserError
from insitu.methods import Accepts, Example, Image, Request, Told
from insitu.methods.dreammix.data import REGULAR
from insitu.methods.dreammix.painting import Rules, paint
from insitu.methods.dreammix.substitution import substituted

ADAPTER, PREFIX = "dreammix", "unet."


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        rank: of the LoRA matrices.
        targets: the ends of names of the layers that get them.
        inside, outside: weights tau1 and tau2 of the loss within and outside of the mask.
        beta: weight of the regularization images' loss.
        local: lambda, the share of the steps on a square around the place; 1 = all of them.
        enlarge: how much longer the sides of what is filled there are than the place's, as a share.
        background: outside of the place, once the whole photo is worked on.
        substitute: what of a prompt loses the attributes that it replaces.
        scheduler, steps, guidance_scale, rescale: of sampling.
        context: how much longer the painted square's side is than the box's, as a share.
    """

    rank: int
    targets: tuple[str, ...]
    inside: float
    outside: float
    beta: float
    local: float
    enlarge: float
    background: Literal["original", "intermediate"]
    substitute: Literal["off", "tokens", "tokens+pooled"]
    scheduler: Literal["own", "ddim", "euler"]
    steps: int
    guidance_scale: float
    rescale: float
    context: float

    def rules(self) -> Rules:
        """How a place is painted."""
        return Rules(
            sampling=Sampling(
                scheduler=self.scheduler, steps=self.steps, guidance_scale=self.guidance_scale,
                rescale=self.rescale,
            ),
            local=self.local, enlarge=self.enlarge, background=self.background,
            context=self.context,
        )  # fmt: skip


class DreamMix:
    """The four verbs on an SDXL inpainting U-Net."""

    name = "dreammix"
    base = "inpaint"
    accepts = Accepts(
        placements=(1, 1), takes=frozenset({"mask"}), negative_prompt=True, replaces=True, rest=True
    )
    drops: frozenset[str] = frozenset()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def untrained(self) -> "DreamMix":
        """Itself, with the weights that it starts from."""
        return self

    def attach(self, backbone: InpaintBackbone) -> nn.ModuleDict:
        """Add LoRA to the U-Net's attention; B starts at zero, so nothing changes yet.

        Raises:
            UserError: a target names no layer of this U-Net.
        """
        return adapters.attach(backbone.unet, self._lora(), ADAPTER)

    def detach(self, backbone: InpaintBackbone) -> None:
        adapters.detach(backbone.unet)

    def state(self, backbone: InpaintBackbone) -> dict[str, Tensor]:
        """PEFT's names under diffusers' prefix: `load_lora_weights` reads the file as it is."""
        return adapters.state(backbone.unet, ADAPTER, prefix=PREFIX)

    def load(
        self,
        backbone: InpaintBackbone,
        state: Mapping[str, Tensor],
        name: str = ADAPTER,
        weight: float = 1.0,
    ) -> None:
        """Attach a subject's adapter; others that were loaded under other names go on acting.

        Args:
            weight: multiplies what it adds.
        """
        adapters.load(
            backbone.unet, self._lora(), name, state, prefix=PREFIX,
            base=backbone.checkpoint.path,
        )  # fmt: skip
        adapters.switch(backbone.unet, name, "frozen", weight=weight)

    def fill(self, backbone: InpaintBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        adapters.fill(backbone.unet, ADAPTER, state, prefix=PREFIX)

    def _lora(self) -> LoraConfig:
        own = self.settings
        return LoraConfig(r=own.rank, lora_alpha=own.rank, target_modules=list(own.targets))

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
        text = Text(told["text.context"], told.get("text.pooled"))
        predicted = backbone.predict(z_t, timestep, m, told["holed"], text)
        error = (predicted - backbone.target(z_0, noise, timestep)).square()
        l_re = ((own.inside * m + own.outside * (1 - m)) * error).mean((1, 2, 3))
        regular = told["regular"]
        return {
            "subject": torch.where(regular, 0.0, l_re),
            "regular": torch.where(regular, own.beta * l_re, 0.0),
        }

    def paint(self, backbone: InpaintBackbone, requests: Sequence[Request]) -> list[Image]:
        """Fill each request's place, first on a square around it, then on the whole photo.

        Where a prompt replaces attributes of the subject (`Request.replaced`), its embedding is
        taken out of theirs' span first.
        """
        for request in requests:
            self.accepts.require(self.name, request)
        return paint(
            backbone,
            requests,
            joined([self._text(backbone, request) for request in requests]),
            backbone.encode_text(tuple(request.negative_prompt or "" for request in requests)),
            self.settings.rules(),
        )

    def _text(self, backbone: InpaintBackbone, request: Request) -> Text:
        text = backbone.encode_text((request.prompt,))
        if not request.replaced or self.settings.substitute == "off":
            return text
        pooled = self.settings.substitute == "tokens+pooled"
        return substituted(backbone, text, request.replaced, pooled=pooled)


def _mask(example: Example) -> Image:
    assert example.mask is not None  # `examples` gives each one
    return example.mask
