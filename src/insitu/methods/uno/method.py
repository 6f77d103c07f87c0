"""UNO on FLUX: references beside the picture, one LoRA on all tokens, the flow's loss."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.branches import Inputs, of_conditions
from insitu.backbones.flux import FluxBackbone, Text, pack, unpack
from insitu.backbones.zoom import middle, resized
from insitu.methods import Accepts, Example, Image, Placement, Request, Told
from insitu.methods.uno.keys import from_published, is_published
from insitu.methods.uno.layout import ADAPTER, Acting, layout

PREFIX = "transformer."
ATTENTION = (
    r"(single_)?transformer_blocks\.\d+\."
    r"(attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)|proj_out)"
)
OF_IMAGES = r"(single_)?transformer_blocks\.\d+\.(attn\.(to_[qkv]|to_out\.0)|proj_out)"
"""Those that references pass."""
BATCH = 8
"""Pictures painted at once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """See this folder's README.

    Attributes:
        most: references of a picture, at most.
        rank: of the LoRA.
        acting: which tokens it acts on; references = picture and text are left to the base.
        reference_size: side in pixels at which references are encoded.
        steps, guidance_scale: of sampling; the guidance is embedded.
        training_guidance: the same while training.
    """

    most: int
    rank: int
    acting: Acting
    reference_size: int
    steps: int
    guidance_scale: float
    training_guidance: float


class Uno:
    """The four verbs on FLUX."""

    name = "uno"
    base = "flux"
    drops = frozenset({"condition"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.accepts = Accepts(
            placements=(1, settings.most),
            needs=frozenset({"reference"}),
            takes=frozenset({"prompt"}),
            free=True,
            keeps=False,
            places=False,
        )

    def untrained(self) -> "Uno":
        """Itself, with the weights that it starts from."""
        return self

    def attach(self, backbone: FluxBackbone) -> nn.ModuleDict:
        """Add LoRA to the layers around every attention; B starts at zero."""
        return adapters.attach(backbone.transformer, self._lora(backbone), ADAPTER)

    def detach(self, backbone: FluxBackbone) -> None:
        adapters.detach(backbone.transformer)

    def state(self, backbone: FluxBackbone) -> dict[str, Tensor]:
        """PEFT's names under diffusers' prefix."""
        return adapters.state(backbone.transformer, ADAPTER, prefix=PREFIX)

    def load(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        """Attach and fill, from an adapter of this project or the published one."""
        own = from_published(state, PREFIX) if is_published(state) else state
        adapters.load(
            backbone.transformer, self._lora(backbone), ADAPTER, own, prefix=PREFIX,
            base=backbone.checkpoint.path,
        )  # fmt: skip

    def fill(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        adapters.fill(backbone.transformer, ADAPTER, state, prefix=PREFIX)

    def _lora(self, backbone: FluxBackbone) -> LoraConfig:
        rank, targets = self.settings.rank, ATTENTION
        if self.settings.acting == "references":
            targets = of_conditions(backbone.transformer, OF_IMAGES)
        return LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)

    def condition(self, backbone: FluxBackbone, examples: Sequence[Example]) -> Told:
        """Latents of the picture and of `most` references [B, K, ...], and which there are."""
        own = self.settings
        size = own.reference_size
        references, present = [], []
        for example in examples:
            missing = own.most - len(example.placements)
            blank = np.zeros((size, size, 3), np.uint8)
            references += [*_references(example.placements, size), *[blank] * missing]
            present.append([True] * len(example.placements) + [False] * missing)
        encoded = backbone.encode(np.stack(references))
        return {
            "z_0": backbone.encode(np.stack([example.image for example in examples])),
            "references": encoded.unflatten(0, (len(examples), own.most)),
            "present": torch.tensor(present, device=backbone.device),
        }

    def loss(
        self, backbone: FluxBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """|v(x_t, t) - (noise - z_0)|^2 at x_t = (1 - t) z_0 + t noise (Esser et al. 2024)."""
        z_0, present = told["z_0"], told["present"]
        if "dropped.condition" in told:
            present = present & ~told["dropped.condition"][:, None]
        x_t = torch.lerp(z_0, noise, t[:, None, None, None])
        text = Text(told["text.tokens"], told["text.pooled"])
        velocity = self._velocity(
            backbone, text, told["references"], present, self.settings.training_guidance, x_t
        )
        return {"flow": (velocity(x_t, t) - (noise - z_0)).square().mean((1, 2, 3))}

    def paint(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        """A whole picture for each request, of about the base's pixels, scaled to its photo's size.

        Raises:
            UserError: a request holds what this method cannot use: a place, for one.
        """
        for request in requests:
            self.accepts.require(self.name, request)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, request in enumerate(requests):
            size = backbone.fitting(*request.image.shape[:2])
            alike[(*size, len(request.placements))].append(number)
        painted: dict[int, Image] = {}
        for (height, width, _), numbers in alike.items():
            for start in range(0, len(numbers), BATCH):
                some = numbers[start : start + BATCH]
                pictures = self._paint(backbone, [requests[n] for n in some], height, width)
                painted |= dict(zip(some, pictures, strict=True))
        return [resized(painted[n], *request.image.shape[:2]) for n, request in enumerate(requests)]

    @torch.no_grad()
    def _paint(
        self, backbone: FluxBackbone, requests: Sequence[Request], height: int, width: int
    ) -> list[Image]:
        """Requests with equally many references."""
        own = self.settings
        count = len(requests[0].placements)
        references = [
            picture for r in requests for picture in _references(r.placements, own.reference_size)
        ]
        encoded = backbone.encode(np.stack(references)).unflatten(0, (len(requests), count))
        text = backbone.encode_text(tuple(request.prompt for request in requests))
        noise = backbone.noise([request.seed for request in requests], height, width)
        present = torch.ones(len(requests), count, dtype=torch.bool, device=backbone.device)
        velocity = self._velocity(backbone, text, encoded, present, own.guidance_scale, noise)
        return backbone.pictures(backbone.sample(noise, velocity, steps=own.steps))

    def _velocity(
        self, backbone: FluxBackbone, text: Text, references: Tensor, present: Tensor,
        guidance: float, like: Tensor,
    ) -> Callable[[Tensor, Tensor], Tensor]:  # fmt: skip
        """x_t, t -> dx/dt for latents as large as `like`."""
        seen = layout(
            present, words=text.tokens.shape[1], cells=(like.shape[-2], like.shape[-1]),
            reference_cells=references.shape[-1], acting=self.settings.acting,
        )  # fmt: skip
        tokens = {f"reference{k}": pack(references[:, k]) for k in range(references.shape[1])}

        def velocity(x_t: Tensor, t: Tensor) -> Tensor:
            given = Inputs(
                tokens={**tokens, "text": text.tokens, "image": pack(x_t)}, pooled=text.pooled,
                t=t, guidance=torch.full_like(t, guidance),
            )  # fmt: skip
            v = backbone.transformer(layout=seen, inputs=given)
            return unpack(v.float(), *x_t.shape[-2:])

        return velocity


def _references(placements: Sequence[Placement], size: int) -> list[Image]:
    """The middle square of each reference."""
    found = []
    for placement in placements:
        assert placement.reference is not None  # `accepts` asks for one
        found.append(middle(placement.reference, size))
    return found
