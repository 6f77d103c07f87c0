"""A picture as a prompt, in the style of IP-Adapter (Ye et al. 2023, section 3.2.2): attention of
its own, decoupled from the text's, over a few tokens projected from CLIP's embedding.

Reads the public format for FLUX (XLabs' names, and the names that diffusers gives them).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu.backbones.branches import BranchTransformer
from insitu.errors import UserError

WEIGHTS, ENCODER, NAME = "ip_adapter.safetensors", "image_encoder", "image_prompt"
PROJECTION = ("ip_adapter_proj_model.", "image_proj.")
LAYERS = ("double_blocks.", "ip_adapter.")
RENAMED = {
    "ip_adapter_double_stream_k_proj": "to_k_ip",
    "ip_adapter_double_stream_v_proj": "to_v_ip",
    "processor.": "",
}


class ImageAttention(nn.Module):
    """scale Attention(Q, K', V'), where Q is the block's own and K', V' are the picture's."""

    def __init__(self, features: int, width: int, scale: float) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = nn.Linear(features, width), nn.Linear(features, width)
        self.scale = scale

    def forward(self, q_BNHd: Tensor, tokens_BMD: Tensor) -> Tensor:
        k, v = (
            layer(tokens_BMD).unflatten(-1, q_BNHd.shape[2:]).transpose(1, 2)
            for layer in (self.to_k_ip, self.to_v_ip)
        )
        seen = scaled_dot_product_attention(q_BNHd.transpose(1, 2), k, v)
        return self.scale * seen.transpose(1, 2).flatten(2)


class ImagePrompt:
    """An image encoder, a projection, and a layer for each of a transformer's double-stream blocks.

    Attributes:
        projection: CLIP's embedding [B, E] -> tokens [B, M D] before they are normed.
    """

    def __init__(
        self,
        encoder: Any,
        projection: nn.Linear,
        norm: nn.LayerNorm,
        layers: Sequence[ImageAttention],
    ) -> None:
        side = encoder.config.image_size
        self.encoder, self.projection, self.norm = encoder, projection, norm
        self.layers = list(layers)
        self._processor = CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )

    @classmethod
    def load(cls, folder: Path, transformer: BranchTransformer, *, scale: float = 1.0) -> Self:
        """Read a folder for a transformer; `put` puts its layers in.

        Args:
            folder: with `ip_adapter.safetensors` and the encoder's folder `image_encoder`.
            scale: of what it adds; 0 = nothing.

        Raises:
            UserError: a file is missing, or it is of a transformer with other shapes.
        """
        for part in (WEIGHTS, f"{ENCODER}/config.json"):
            if not (folder / part).is_file():
                raise UserError(
                    f"An image prompt was to be loaded from {folder}.",
                    f"It has no {part}.",
                    f"Put the adapter there as {WEIGHTS} and its CLIP encoder as {ENCODER}/.",
                )
        projected, layers = sorted_by_part(load_file(folder / WEIGHTS))
        device, dtype = transformer.device, transformer.dtype
        encoder: Any = CLIPVisionModelWithProjection.from_pretrained(folder / ENCODER, dtype=dtype)
        encoder.requires_grad_(False).eval()
        features, blocks = transformer.config.joint_attention_dim, transformer.transformer_blocks
        own = [
            ImageAttention(features, transformer.inner_dim, scale).requires_grad_(False)
            for _ in blocks
        ]
        wanted = {f"{k}.{name}": t for k, one in enumerate(own) for name, t in _state(one).items()}
        rows, embedding = projected.get("proj.weight", torch.empty(0, 0)).shape
        projection = nn.Linear(embedding, rows).requires_grad_(False)
        norm = nn.LayerNorm(features).requires_grad_(False)
        wanted_of_projection = {
            f"{name}.{key}": t
            for name, part in (("proj", projection), ("norm", norm))
            for key, t in _state(part).items()
        }
        _require_alike(wanted_of_projection | wanted, projected | layers, folder)
        if not rows or rows % features or embedding != encoder.config.projection_dim:
            raise UserError(
                f"An image prompt was to be loaded from {folder}.",
                f"It makes {rows} numbers of {embedding}; tokens are {features} wide, and the"
                f" encoder gives {encoder.config.projection_dim}.",
                "Use the base and the image encoder that it was trained with.",
            )
        for k, one in enumerate(own):
            one.load_state_dict({name: layers[f"{k}.{name}"] for name in _state(one)})
            one.to(device, dtype)
        projection.load_state_dict({key: projected[f"proj.{key}"] for key in _state(projection)})
        norm.load_state_dict({key: projected[f"norm.{key}"] for key in _state(norm)})
        return cls(encoder.to(device), projection.to(device, dtype), norm.to(device, dtype), own)

    def put(self, transformer: BranchTransformer) -> None:
        """Put the layers in; they act where `Inputs.beside[NAME]` gives them tokens."""
        for block, layer in zip(transformer.transformer_blocks, self.layers, strict=True):
            if not hasattr(block, "beside"):
                block.beside = nn.ModuleDict()
            block.beside[NAME] = layer

    @torch.no_grad()
    def tokens(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Pictures of any sizes -> [B, M, D]; their middle squares are looked at."""
        given = self._processor([Pillow.fromarray(image) for image in images], return_tensors="pt")
        pixels = given["pixel_values"].to(self.encoder.device, self.encoder.dtype)
        tokens: Tensor = self.projection(self.encoder(pixels).image_embeds)
        return self.norm(tokens.unflatten(-1, (-1, *self.norm.normalized_shape)))


def remove(transformer: BranchTransformer) -> None:
    """Take the layers out; the transformer is what it was."""
    for block in transformer.transformer_blocks:
        if NAME in getattr(block, "beside", {}):
            del block.beside[NAME]


def sorted_by_part(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Projection and layers, by diffusers' names: `proj.weight`, `0.to_k_ip.weight`.

    Raises:
        UserError: a name belongs to neither.
    """
    projection, layers = {}, {}
    for key, tensor in weights.items():
        name = key.partition(".")[2]
        if key.startswith(PROJECTION):
            projection[name] = tensor
        elif key.startswith(LAYERS):
            for theirs, ours in RENAMED.items():
                name = name.replace(theirs, ours)
            layers[name] = tensor
        else:
            raise UserError(
                f"An image prompt's weights hold {key!r}.",
                f"Names begin with one of {', '.join((*PROJECTION, *LAYERS))}.",
                "Give an IP-Adapter for FLUX in XLabs' format.",
            )
    return projection, layers


def _state(part: nn.Module) -> dict[str, Tensor]:
    return part.state_dict()


def _require_alike(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], folder: Path) -> None:
    for name in sorted(wanted.keys() | given.keys()):
        here, there = (
            tuple(part[name].shape) if name in part else "nothing" for part in (wanted, given)
        )
        if here != there:
            raise UserError(
                f"An image prompt was to be loaded from {folder}.",
                f"Its {name} is {there}, and this base takes {here}.",
                "Use the base that it was trained with.",
            )
