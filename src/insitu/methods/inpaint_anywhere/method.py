"""Inpaint-Anywhere: two adapters, a position encoder, and one pass for all identities."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from peft import LoraConfig
from torch import Tensor, nn

from insitu.backbones import adapters
from insitu.backbones.branches import Cache, Inputs, Layout, of_conditions
from insitu.backbones.flux import FluxBackbone, Text, pack, unpack
from insitu.backbones.zoom import middle
from insitu.methods import Accepts, Example, Image, Request, Told, loaded
from insitu.methods.inpaint_anywhere.layout import IDENTITY, INPAINT, Group, layout
from insitu.methods.inpaint_anywhere.painting import (
    batches,
    canvas,
    finished,
    one_at_a_time,
    placeholder,
)
from insitu.methods.inpaint_anywhere.position import PositionEncoder

QKV = r".*\.attn\.to_[qkv]"
WIDE = (
    r"x_embedder|transformer_blocks\.\d+\.(norm1\.linear|attn\.to_[qkv]|attn\.to_out\.0|ff\.net\.2)"
    r"|single_transformer_blocks\.\d+\.(norm\.linear|attn\.to_[qkv]|proj_mlp|proj_out)"
)
TARGETS = {"qkv": QKV, "wide": WIDE}
POSITION = "position_encoder"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Each with the sentence of the paper behind it, see this folder's README.

    Attributes:
        most: identities in a picture, at most.
        identity_rank, inpaint_rank: of IDA and InpA.
        targets: layers that get them.
        adapters: which there are; unified = one, of IDA's rank, on all conditions.
        shifted: identities' columns are moved beside the picture's (IMRoPE).
        placed: boxes become position tokens.
        frequencies: of the position encoder.
        group: whom conditions see.
        reference_size: side in pixels at which references are encoded; 0 = the picture's.
        fill: gray of the boxes in the masked picture, 0..255.
        category: a placeholder is followed by the word for what it is.
        steps, guidance_scale: of sampling.
        passes: one for all identities, or each its own.
        paste: pixels outside of the boxes stay the photo's.
    """

    most: int
    identity_rank: int
    inpaint_rank: int
    targets: Literal["qkv", "wide"]
    adapters: Literal["both", "identity", "inpaint", "unified"]
    shifted: bool
    placed: bool
    frequencies: int
    group: Group
    reference_size: int
    fill: int
    category: bool
    steps: int
    guidance_scale: float
    passes: Literal["one", "each"]
    paste: bool


class InpaintAnywhere:
    """The four verbs on FLUX."""

    name = "inpaint_anywhere"
    base = "flux"
    drops = frozenset({"condition"})

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.accepts = Accepts(
            placements=(1, settings.most),
            needs=frozenset({"reference"}),
            takes=frozenset({"prompt"}),
            prompt=" and ".join(placeholder(k + 1) for k in range(settings.most)),
        )

    def untrained(self) -> "InpaintAnywhere":
        """Itself, with the weights that it starts from."""
        return self

    def attach(self, backbone: FluxBackbone) -> nn.ModuleDict:
        """Put both adapters in, B at zero, and the position encoder."""
        for name, rank in self._ranks():
            adapters.attach(backbone.transformer, self._lora(backbone, rank), name)
        if self.settings.placed:
            encoder = PositionEncoder(backbone.width, self.settings.frequencies)
            backbone.transformer.add_module(POSITION, encoder.to(backbone.device))
        return self._learned(backbone)

    def detach(self, backbone: FluxBackbone) -> None:
        adapters.detach(backbone.transformer)
        backbone.transformer._modules.pop(POSITION, None)

    def state(self, backbone: FluxBackbone) -> dict[str, Tensor]:
        """Each adapter under PEFT's names after its own; the position encoder's after its."""
        found: dict[str, Tensor] = {}
        for name, _ in self._ranks():
            found |= adapters.state(backbone.transformer, name, prefix=f"{name}.")
        if self.settings.placed:
            encoder = getattr(backbone.transformer, POSITION)
            found |= adapters.plain_state(encoder, prefix=f"{POSITION}.")
        return found

    def load(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        loaded(self, backbone, state)

    def fill(self, backbone: FluxBackbone, state: Mapping[str, Tensor]) -> None:
        adapters.require_names(self.state(backbone), state, backbone.checkpoint.path)
        for name, _ in self._ranks():
            adapters.fill(backbone.transformer, name, _under(state, name), prefix="")
        if self.settings.placed:
            getattr(backbone.transformer, POSITION).load_state_dict(_under(state, POSITION))

    def condition(self, backbone: FluxBackbone, examples: Sequence[Example]) -> Told:
        """Latents of the picture, of it with its boxes blanked, of `most` references [B, K, ...];
        boxes [B, K, 4] and which of them there are [B, K].
        """
        own, size = self.settings, self._reference_size(backbone)
        images = np.stack([example.image for example in examples])
        masks = np.stack([_mask(example) for example in examples])
        blank = np.zeros((size, size, 3), np.uint8)
        references, boxes, present = [], [], []
        for example in examples:
            missing = own.most - len(example.placements)
            given = [middle(_reference(p.reference), size) for p in example.placements]
            references.append(np.stack(given + [blank] * missing))
            boxes.append(
                [p.box_xyxy01 for p in example.placements] + [(0.0, 0.0, 1.0, 1.0)] * missing
            )
            present.append([True] * len(given) + [False] * missing)
        encoded = backbone.encode(np.concatenate(references))
        return {
            "z_0": backbone.encode(images),
            "masked": backbone.encode(self._blanked(images, masks)),
            "references": encoded.unflatten(0, (len(examples), own.most)),
            "boxes": torch.tensor(boxes, device=backbone.device),
            "present": torch.tensor(present, device=backbone.device),
        }

    def loss(
        self, backbone: FluxBackbone, told: Told, noise: Tensor, t: Tensor
    ) -> dict[str, Tensor]:
        """|v - (noise - z_0)|^2 at x_t = (1 - t) z_0 + t noise, each [B].

        The paper's eq. 1 weighs the noise's error by w(t); this is w = (1 - t)^-2.
        """
        z_0 = told["z_0"]
        x_t = torch.lerp(z_0, noise, t[:, None, None, None])
        present = told["present"]
        if "dropped.condition" in told:
            present = present & ~told["dropped.condition"][:, None]
        layout = self._layout(backbone, told["boxes"], present, x_t)
        text = Text(told["text.tokens"], told["text.pooled"])
        tokens = _tokens(told["masked"], told["references"], text)
        v = self._velocity(backbone, layout, tokens, told["boxes"], text, x_t, t, None)
        return {"flow": (v - (noise - z_0)).square().mean((1, 2, 3))}

    def paint(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        """Every box filled with its reference, in one pass or in one for each identity.

        Raises:
            UserError: a request holds what this method cannot use, a prompt lacks a placeholder, or
                a box is smaller than a token.
        """
        for request in requests:
            self.accepts.require(self.name, request)
            canvas(backbone, request)
        if self.settings.passes == "each":
            return one_at_a_time(lambda some: self._paint(backbone, some), requests)
        return self._paint(backbone, requests)

    @torch.no_grad()
    def _paint(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        painted: dict[int, Image] = {}
        for numbers in batches(backbone, requests):
            some = [requests[number] for number in numbers]
            pictures = self._batch(backbone, some)
            painted |= {
                number: finished(request, picture, paste=self.settings.paste)
                for number, request, picture in zip(numbers, some, pictures, strict=True)
            }
        return [painted[number] for number in range(len(requests))]

    def _batch(self, backbone: FluxBackbone, requests: Sequence[Request]) -> list[Image]:
        """Requests of one size with equally many placements."""
        own, size = self.settings, self._reference_size(backbone)
        images, masks = (
            np.stack(x) for x in zip(*(canvas(backbone, r) for r in requests), strict=True)
        )
        references = [middle(_reference(p.reference), size) for r in requests for p in r.placements]
        count = len(requests[0].placements)
        encoded = backbone.encode(np.stack(references)).unflatten(0, (len(requests), count))
        boxes = torch.tensor([[p.box_xyxy01 for p in r.placements] for r in requests])
        boxes = boxes.to(backbone.device)
        text = backbone.encode_text(tuple(request.prompt for request in requests))
        noise = backbone.noise([request.seed for request in requests], *images.shape[1:3])
        masked = backbone.encode(self._blanked(images, masks))
        tokens = _tokens(masked, encoded, text)
        present = torch.ones(boxes.shape[:2], dtype=torch.bool, device=backbone.device)
        layout, cache = self._layout(backbone, boxes, present, noise), Cache()
        latents = backbone.sample(
            noise,
            lambda x, t: self._velocity(backbone, layout, tokens, boxes, text, x, t, cache),
            steps=own.steps,
        )
        return backbone.pictures(latents)

    def _velocity(
        self, backbone: FluxBackbone, layout: Layout, tokens: Mapping[str, Tensor], boxes: Tensor,
        text: Text, x_t: Tensor, t: Tensor, cache: Cache | None,
    ) -> Tensor:  # fmt: skip
        def every() -> dict[str, Tensor]:
            placed = {}
            if self.settings.placed:
                encoder = getattr(backbone.transformer, POSITION)
                placed = {f"position{k}": encoder(boxes[:, k]) for k in range(boxes.shape[1])}
            return {**tokens, **placed, "image": pack(x_t)}

        given = Inputs(
            tokens=every, pooled=text.pooled, t=t,
            guidance=torch.full_like(t, self.settings.guidance_scale if cache is not None else 1.0),
        )  # fmt: skip
        v = backbone.transformer(layout=layout, inputs=given, cache=cache)
        return unpack(v.float(), *x_t.shape[-2:])

    def _layout(
        self, backbone: FluxBackbone, boxes: Tensor, present: Tensor, latents: Tensor
    ) -> Layout:
        own = self.settings
        factor = backbone.pipeline.vae_scale_factor
        both = {
            "both": ((IDENTITY,), (INPAINT,)), "identity": ((IDENTITY,), ()),
            "inpaint": ((), (INPAINT,)), "unified": ((IDENTITY,), (IDENTITY,)),
        }  # fmt: skip
        return layout(
            boxes, present, cells=(latents.shape[-2], latents.shape[-1]),
            reference_cells=self._reference_size(backbone) // factor, words=backbone.words,
            adapters=both[own.adapters], shifted=own.shifted, placed=own.placed, group=own.group,
        )  # fmt: skip

    def _reference_size(self, backbone: FluxBackbone) -> int:
        return self.settings.reference_size or backbone.size

    def _blanked(self, images_BHWC: Image, masks_BHW: Image) -> Image:
        """x_m: the pictures with their boxes gray."""
        return np.where(masks_BHW[..., None] > 127, np.uint8(self.settings.fill), images_BHWC)

    def _learned(self, backbone: FluxBackbone) -> nn.ModuleDict:
        """What was attached, by name."""
        transformer = backbone.transformer
        learned = nn.ModuleDict(
            {name: adapters.layers(transformer, name) for name, _ in self._ranks()}
        )
        if self.settings.placed:
            learned[POSITION] = getattr(transformer, POSITION)
        return learned

    def _ranks(self) -> list[tuple[str, int]]:
        own = self.settings
        ranks = {IDENTITY: own.identity_rank, INPAINT: own.inpaint_rank}
        names = {"both": (IDENTITY, INPAINT), "inpaint": (INPAINT,)}.get(own.adapters, (IDENTITY,))
        return [(name, ranks[name]) for name in names]

    def _lora(self, backbone: FluxBackbone, rank: int) -> LoraConfig:
        targets = of_conditions(backbone.transformer, TARGETS[self.settings.targets])
        return LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)


def _tokens(masked: Tensor, references: Tensor, text: Text) -> dict[str, Tensor]:
    """Of all branches but the picture's and the positions'."""
    found = {"text": text.tokens, "mask": pack(masked)}
    for k in range(references.shape[1]):
        found[f"reference{k}"] = pack(references[:, k])
    return found


def _under(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}."
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _mask(example: Example) -> Image:
    assert example.mask is not None  # `examples` gives each one
    return example.mask


def _reference(image: Image | None) -> Image:
    assert image is not None  # `accepts` asks for one
    return image
