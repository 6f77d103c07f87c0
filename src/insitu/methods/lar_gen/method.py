"""LAR-Gen on an inpainting U-Net: the four verbs."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.unet import InpaintBackbone, Text
from insitu.backbones.unet.beside import Beside
from insitu.methods import Accepts, Example, Image, Request, Told, loaded
from insitu.methods.lar_gen import networks
from insitu.methods.lar_gen.networks import Settings
from insitu.methods.lar_gen.painting import paint, subject_square

BORDER = 1e-6
"""Shares of the training this near are the same: they come in float32."""


class LarGen:
    """The four verbs; one model paints from text, from a picture, and from both."""

    name = "lar_gen"
    base = "inpaint"
    drops = frozenset({"condition"})
    accepts = Accepts(
        placements=(1, 1), takes=frozenset({"reference", "mask"}), negative_prompt=True,
        rest=True, wordless=True,
    )  # fmt: skip

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def untrained(self) -> "LarGen":
        """The inpainting base by text alone, as in the paper's tables."""
        return LarGen(replace(self.settings, beta=0.0, refine=False, main="none"))

    def attach(self, backbone: InpaintBackbone) -> nn.ModuleDict:
        """Put Assign and Refine in; `main` of the U-Net learns with them.

        Raises:
            UserError: the image encoder cannot be had, or nothing would learn.
        """
        networks.require(backbone, self.settings)
        encoder = networks.image_encoder(self.settings, backbone.device)
        return networks.attach(backbone, self.settings, encoder)

    def detach(self, backbone: InpaintBackbone) -> None:
        networks.detach(backbone)

    def state(self, backbone: InpaintBackbone) -> dict[str, Tensor]:
        """Assign's layers by IP-Adapter's names; of the main U-Net what may have learned."""
        found: dict[str, Tensor] = {}
        for name, part in self._learned(backbone).items():
            found |= adapters.plain_state(part, prefix=f"{name}.")
        return {k: v for k, v in found.items() if not _within(k)}

    def load(self, backbone: InpaintBackbone, state: Mapping[str, Tensor]) -> None:
        loaded(self, backbone, state)
        backbone.unet.requires_grad_(False)

    def fill(self, backbone: InpaintBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        for name, part in self._learned(backbone).items():
            prefix = f"{name}."
            own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            part.load_state_dict(own, strict=False)

    def condition(self, backbone: InpaintBackbone, examples: Sequence[Example]) -> Told:
        """Clean latents, mask, latents of the holed picture; of the subject CLIP's patch features
        [B, P, D] and latents.
        """
        images = np.stack([example.image for example in examples])
        masks = np.stack([_mask(example) for example in examples])
        encoder = networks.image_encoder(self.settings, backbone.device)
        subjects = [
            subject_square(example.placements[0].reference, self._subject_size(backbone))
            for example in examples
        ]
        return {
            "z_0": backbone.encode(images),
            "mask": backbone.latent_mask(masks),
            "holed": backbone.encode_holed(images, masks),
            "features": encoder.features(subjects),
            "subject": backbone.encode(np.stack(subjects)),
        }

    def loss(
        self, backbone: InpaintBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """|eps - eps_theta|^2 (eq. 11), [B]; a base that predicts the velocity has it in its place.

        In the first stage beta is 1 and there is no Refine.
        """
        own, z_0, step = self.settings, told["z_0"], backbone.timesteps(t)
        text = Text(told["text.context"], told.get("text.pooled"))
        dropped = told.get("dropped.condition", torch.zeros(len(z_0), dtype=torch.bool))
        present = ~dropped.to(z_0.device)
        first = float(told["progress"].max()) < own.first_stage - BORDER

        def see() -> Beside:
            return self._beside(
                backbone, told["features"], present, beta=1.0 if first else own.beta,
                subject=None if first else told["subject"], t=step,
                noise=_noise(told["chances"], told["subject"]),
            )  # fmt: skip

        z_t = backbone.schedule.add_noise(z_0, noise, step)
        guess = backbone.predict(z_t, step, told["mask"], told["holed"], text, see)
        error = (guess - backbone.target(z_0, noise, step)).square()
        return {"refine" if not first and own.refine else "assign": error.mean((1, 2, 3))}

    def paint(self, backbone: InpaintBackbone, requests: Sequence[Request]) -> list[Image]:
        """Fill each request's place from its prompt, its reference, or both.

        Raises:
            UserError: a request has neither, or holds what this method cannot use.
        """
        for request in requests:
            self.accepts.require(self.name, request)
        return paint(backbone, requests, self.settings, self._beside)

    def _beside(
        self, backbone: InpaintBackbone, features: Tensor, present: Tensor, *, beta: float,
        subject: Tensor | None, t: Tensor, noise: Tensor,
    ) -> Beside:  # fmt: skip
        """What the main U-Net sees of the subject: tokens, and with `subject` the RefineNet's."""
        own = self.settings
        counts = beta * present.to(features.dtype)[:, None, None]
        with_tokens = own.assign and beta != 0
        return Beside(
            tokens=networks.tokens(backbone, features) if with_tokens else None,
            beta=counts if with_tokens else None,
            features=(
                networks.refined(backbone, subject, noise, t, features)
                if own.refine and subject is not None
                else {}
            ),
            present=present,
        )

    def _learned(self, backbone: InpaintBackbone) -> dict[str, nn.Module]:
        """Modules by their names in the file."""
        return networks.learned(backbone, self.settings)

    def _subject_size(self, backbone: InpaintBackbone) -> int:
        return self.settings.subject_size or backbone.size


def _within(name: str) -> bool:
    """Whether it is a weight of Assign's that lies within a layer of the main U-Net."""
    return name.startswith("main.") and ".processor." in name


def _noise(chances_BC: Tensor, like: Tensor) -> Tensor:
    """The subject's own noise, each example's from its own chances at this step."""
    drawn = [
        torch.randn(like.shape[1:], generator=torch.Generator().manual_seed(int(c * 2**24)))
        for c in chances_BC[:, 0].double().tolist()
    ]
    return torch.stack(drawn).to(like.device)


def _mask(example: Example) -> Image:
    assert example.mask is not None  # `examples` gives each one
    return example.mask
