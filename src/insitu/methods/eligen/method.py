"""EliGen on FLUX: regional attention over entity prompts, LoRA on all tokens, the flow's loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters, image_prompt
from insitu.backbones.flux import FluxBackbone, Text
from insitu.backbones.image_prompt import ImagePrompt
from insitu.errors import UserError
from insitu.methods import Accepts, Example, Image, Placement, Request, Told
from insitu.methods.eligen.layout import ADAPTER, Entities
from insitu.methods.eligen.painting import paint, velocity
from insitu.methods.eligen.regions import cells_of, place, require_region, tokens_of

PREFIX = "transformer."
AROUND = (
    r"(single_)?transformer_blocks\.\d+\."
    r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|proj_out|norm1?(_context)?\.linear%s)"
)
"""Linear layers of a block before and after its attention, and inside AdaLN, of both streams."""
FEED_FORWARD = r"|ff(_context)?\.net\.(0\.proj|2)|proj_mlp"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        most: entities of one picture at most.
        rank: of the LoRA matrices.
        feed_forward: LoRA on the feed-forward layers, too.
        training_guidance: embedded guidance while training.
        steps: of sampling.
        guidance_scale: classifier-free guidance of two passes; 1 = one pass.
        guidance: embedded guidance of sampling.
        fuse: where the photo's background enters the velocity (eq. 14-19).
        paste: the photo's own pixels come back outside of the masks.
        image_prompt: the folder of an IP-Adapter, which lets requests have a style; None = none.
        image_prompt_scale: of what it adds.
    """

    most: int
    rank: int
    feed_forward: bool
    training_guidance: float
    steps: int
    guidance_scale: float
    guidance: float
    fuse: Literal["before_cfg", "after_cfg", "off"]
    paste: bool
    image_prompt: str | None
    image_prompt_scale: float


class EliGen:
    """The four verbs on FLUX; `paint` also without an adapter: untrained regional attention."""

    name = "eligen"
    base = "flux"
    drops = frozenset({"condition"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.accepts = Accepts(
            placements=(0, settings.most),
            needs=frozenset({"prompt"}),
            takes=frozenset({"mask"}),
            negative_prompt=settings.guidance_scale > 1,
            free=True,
            style=settings.image_prompt is not None,
        )
        self._prompt: ImagePrompt | None = None

    def untrained(self) -> "EliGen":
        """Itself, with the weights that it starts from."""
        return self

    def attach(self, backbone: FluxBackbone) -> nn.ModuleDict:
        """Add LoRA to every block; B starts at zero, so nothing changes yet."""
        return adapters.attach(backbone.transformer, self._lora(), ADAPTER)

    def detach(self, backbone: FluxBackbone) -> None:
        adapters.detach(backbone.transformer)

    def state(self, backbone: FluxBackbone) -> dict[str, Tensor]:
        """PEFT's names under diffusers' prefix: `load_lora_weights` reads the file as it is."""
        return adapters.state(backbone.transformer, ADAPTER, prefix=PREFIX)

    def load(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.load(
            backbone.transformer, self._lora(), ADAPTER, state, prefix=PREFIX,
            base=backbone.checkpoint.path,
        )  # fmt: skip

    def fill(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        adapters.fill(backbone.transformer, ADAPTER, state, prefix=PREFIX)

    def _lora(self) -> LoraConfig:
        rank, more = self.settings.rank, FEED_FORWARD if self.settings.feed_forward else ""
        return LoraConfig(r=rank, lora_alpha=rank, target_modules=AROUND % more)

    def condition(self, backbone: FluxBackbone, examples: Sequence[Example]) -> Told:
        """Clean latents; of up to `most` entities p_i [B, E, T, D], m_i [B, E, N], which there are.

        Raises:
            UserError: an entity's prompt is empty or too long, its place too small, or there are
                more than `most`.
        """
        z_0 = backbone.encode(np.stack([example.image for example in examples]))
        found = [self._entities(backbone, example) for example in examples]
        return {
            "z_0": z_0,
            "entities.tokens": torch.stack([one.tokens[0] for one in found]),
            "entities.regions": torch.stack([one.regions[0] for one in found]),
            "entities.present": torch.tensor(
                [[k < len(e.placements) for k in range(self.settings.most)] for e in examples]
            ),
        }

    def loss(
        self, backbone: FluxBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """|v(x_t, t) - (noise - z_0)|^2 at x_t = (1 - t) z_0 + t noise (Esser et al. 2024)."""
        z_0, part = told["z_0"], t.view(-1, 1, 1, 1)
        x_t = (1 - part) * z_0 + part * noise
        present = told["entities.present"]
        if "dropped.condition" in told:
            present = present & ~told["dropped.condition"][:, None]
        entities = Entities(
            tokens=told["entities.tokens"], regions=told["entities.regions"], present=present
        )
        text = Text(told["text.tokens"], told["text.pooled"])
        v = velocity(backbone, text, entities, guidance=self.settings.training_guidance)(x_t, t)
        return {"flow": (v - (noise - z_0)).square().mean((1, 2, 3))}

    def paint(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        """Paint entities into each photo, all in one pass, or whole pictures of its size.

        Raises:
            UserError: a request cannot be painted; nothing is painted then.
        """
        for request in requests:
            self._require(backbone, request)
        if all(request.style is None for request in requests):
            return paint(backbone, requests, self.settings)
        prompt = self._image_prompt(backbone)
        prompt.put(backbone.transformer)
        try:
            return paint(backbone, requests, self.settings, prompt)
        finally:
            image_prompt.remove(backbone.transformer)

    def _image_prompt(self, backbone: FluxBackbone) -> ImagePrompt:
        """Read once, for the base that is painted with first."""
        if self._prompt is None:
            assert self.settings.image_prompt is not None  # else a style is refused
            self._prompt = ImagePrompt.load(
                Path(self.settings.image_prompt),
                backbone.transformer,
                scale=self.settings.image_prompt_scale,
            )
        return self._prompt

    def _entities(self, backbone: FluxBackbone, example: Example) -> Entities:
        """A batch of one, filled up to `most` with entities that are not there."""
        height, width = (
            side // backbone.pipeline.vae_scale_factor for side in example.image.shape[:2]
        )
        most, given = self.settings.most, example.placements
        if len(given) > most:
            raise UserError(
                f"The example {example.id!r} has {len(given)} entities.",
                f"`most` is {most}, and none is left out silently.",
                "Raise `most`, or leave some out where the example is made.",
            )
        regions = torch.zeros(1, most, height * width // 4, dtype=torch.bool)
        for number, placement in enumerate(given, start=1):
            what = f"Entity {number} of the example {example.id!r}"
            _require_prompt(backbone, placement, what)
            inside = cells_of(place(placement, example.image), height, width)
            if not inside.any():
                raise UserError(
                    f"{what} has the box {placement.box_xyxy01}.",
                    "No latent cell falls into it, so there would be nothing to learn it from.",
                    "Raise entities.smallest, or reject its row where it is made.",
                )
            regions[0, number - 1] = torch.from_numpy(tokens_of(inside))
        # The empty prompt fills up, so that all shapes are known without an entity, too.
        prompts = [placement.prompt or "" for placement in given]
        text = backbone.encode_text(tuple(prompts + [""] * (most - len(given))))
        return Entities(tokens=text.tokens[None], regions=regions)

    def _require(self, backbone: FluxBackbone, request: Request) -> None:
        """Refuse what cannot be painted, before any work."""
        self.accepts.require(self.name, request)
        if request.background == "keep" and not request.placements:
            raise UserError(
                f"No placement was given to {self.name}, and the background is to stay.",
                "Then nothing is left to paint.",
                "Give placements, or ask for a whole picture with background='free'.",
            )
        prompts = {"prompt": request.prompt, "negative prompt": request.negative_prompt or ""}
        for what, prompt in prompts.items():
            _require_short(backbone, prompt, f"The {what}")
        for number, placement in enumerate(request.placements, start=1):
            _require_prompt(backbone, placement, f"Placement {number}")
            require_region(
                placement,
                number,
                request.image,
                size=backbone.size,
                stride=backbone.stride,
                cell=backbone.pipeline.vae_scale_factor,
            )


def _require_prompt(backbone: FluxBackbone, placement: Placement, what: str) -> None:
    prompt = placement.prompt or ""
    if not prompt.strip():
        raise UserError(
            f"{what} has an empty prompt.",
            "Its words are all that says what goes there.",
            "Say what it is, such as 'a red mug'.",
        )
    _require_short(backbone, prompt, f"The prompt of {what[0].lower()}{what[1:]}")


def _require_short(backbone: FluxBackbone, prompt: str, what: str) -> None:
    if beyond := backbone.too_long(prompt):
        raise UserError(
            f"{what} has {backbone.words + beyond} tokens: {prompt!r}.",
            f"The text encoder is given {backbone.words} at most, and the rest would be cut off.",
            "Say it in fewer words, or raise models.flux.max_sequence_length, up to 512.",
        )
