"""A picture as tokens for cross-attention: CLIP's patch features, IP-Adapter-Plus' resampler."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu.errors import UserError

Image = NDArray[np.uint8]
PROJECTION, LAYERS = "image_proj.", "ip_adapter."


class ImageEncoder:
    """CLIP's image tower, frozen.

    Attributes:
        width: of its features.
        patches: how many features a picture has, with that of the class.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        config = model.config  # of the tower
        self.width = int(config.hidden_size)
        self.patches = 1 + (config.image_size // config.patch_size) ** 2

    @classmethod
    def from_pretrained(
        cls, path: str, *, revision: str | None = None, device: str | torch.device = "cpu"
    ) -> Self:
        whole = CLIPModel.from_pretrained(path, revision=revision, dtype=torch.float32)
        model: Any = whole.vision_model
        processor = CLIPImageProcessorPil.from_pretrained(path, revision=revision)
        return cls(model.to(device).requires_grad_(False).eval(), processor)

    @torch.no_grad()
    def features(self, images: Sequence[Image]) -> Tensor:
        """Of the class and of each patch before the last layer, [B, 1 + P, D].

        As IP-Adapter-Plus takes them: the last layer serves the pooled embedding alone.
        """
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        seen = self.model(pixels.to(self.model.device), output_hidden_states=True)
        found: Tensor = seen.hidden_states[-2]
        return found


def resampler(
    features: int, context: int, *, width: int, depth: int, head: int, tokens: int
) -> IPAdapterPlusImageProjection:
    """f of LAR-Gen's eq. 4: features [B, N, D] -> `tokens` tokens [B, T, context]."""
    return IPAdapterPlusImageProjection(
        embed_dims=features, output_dims=context, hidden_dims=width, depth=depth, dim_head=head,
        heads=max(1, width // head), num_queries=tokens,
    )  # fmt: skip


def load_public(
    path: Path, unet: Any, layers: nn.ModuleDict, *, tokens: int
) -> IPAdapterPlusImageProjection:
    """Fill the cross-attention layers from a published IP-Adapter-Plus, and return its resampler.

    Args:
        path: the safetensors file, such as `ip-adapter-plus_sd15.safetensors`.
        layers: as `beside.put` returned them.

    Raises:
        UserError: the file is no such adapter, or of a U-Net with other shapes.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _refused(path, f"It cannot be read: {error}.") from error
    projection, own = _under(found, PROJECTION), _under(found, LAYERS)
    if "latents" not in projection or projection["latents"].ndim != 3:
        raise _refused(path, "It has no image_proj.latents, so it is no IP-Adapter-Plus.")
    try:
        made: IPAdapterPlusImageProjection = unet._convert_ip_adapter_image_proj_to_diffusers(
            projection, low_cpu_mem_usage=False
        )
    except (KeyError, RuntimeError) as error:
        why = f"Its resampler is not as the published ones are: {str(error).splitlines()[0]}"
        raise _refused(path, why) from error
    count, width = projection["latents"].shape[1], made.proj_out.out_features
    if count != tokens or width != unet.config.cross_attention_dim:
        raise _refused(
            path,
            f"It makes {count} tokens of width {width}; {tokens} of width"
            f" {unet.config.cross_attention_dim} are wanted.",
        )
    wanted = {
        f"{number}.{part}.weight": getattr(layer, part).weight
        for number, layer in layers.items()
        for part in ("to_k_ip", "to_v_ip")
    }
    for name, weight in wanted.items():
        if name not in own or own[name].shape != weight.shape:
            have = tuple(own[name].shape) if name in own else "missing"
            raise _refused(path, f"{LAYERS}{name} is {have}, here it is {tuple(weight.shape)}.")
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(own[name])
    return made.to(unet.device)


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _refused(path: Path, why: str) -> UserError:
    return UserError(
        f"{path} was to be loaded as image-prompt weights.",
        why,
        "Give the safetensors file of an IP-Adapter-Plus for the same U-Net.",
    )
