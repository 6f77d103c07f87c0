"""Fooocus' inpaint head and patch put onto a checkpoint of SDXL: a base for inpainting.

Both come as published: `fooocus_inpaint_head.pth`, whose `head` is a convolution of mask and holed
latents added to the U-Net's first features, and `inpaint_v26.fooocus.patch`, which adds to weights,
each as bytes with the least and the greatest value that they stand for. Its names are those of
Stability's code.
"""

import pickle
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from insitu.backbones.loading import BROKEN
from insitu.backbones.unet.inlet import HEAD, KEY, require_head
from insitu.errors import UserError
from insitu.files import replacing

PREFIX = "diffusion_model."
Packed = tuple[Tensor, Tensor, Tensor]
"""Bytes, and the values of 0 and 255."""
OUTER = {
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")


def bake(base: Path, head: Path, patch: Path, out: Path, *, weight: float = 1.0) -> int:
    """Write a copy of a pipeline's folder with the patch in its U-Net and the head beside it; how
    many weights were patched.

    Raises:
        UserError: the base is no local folder of SDXL with 4 channels, or a file is none of
            Fooocus', or is another model's.
    """
    try:
        unet: Any = UNet2DConditionModel.from_pretrained(base / "unet")
    except BROKEN as error:
        raise UserError(
            f"{base} was given as the base for Fooocus' inpaint patch.",
            f"Its U-Net cannot be loaded: {str(error).splitlines()[0]}",
            "Give a pipeline's folder, as diffusers writes it.",
        ) from error
    if unet.config.in_channels != unet.config.out_channels:
        raise UserError(
            f"{base} was given as the base for Fooocus' inpaint patch.",
            f"Its U-Net takes {unet.config.in_channels} channels, and inpaints already.",
            "Give a checkpoint of SDXL for text-to-image; this one needs no patch.",
        )
    convolution = _read(head).get(KEY)
    if not isinstance(convolution, Tensor):
        raise UserError(
            f"{head} was given as Fooocus' inpaint head.", f"It holds no tensor {KEY!r}.",
            "Give fooocus_inpaint_head.pth.",
        )  # fmt: skip
    require_head(convolution, unet.conv_in, str(head))
    count = _add(unet, _read(patch), weight, patch)
    with replacing(out) as fresh:
        shutil.copytree(base, fresh, dirs_exist_ok=True)
        shutil.rmtree(fresh / "unet")
        unet.save_pretrained(fresh / "unet")
        save_file({KEY: convolution.float().contiguous()}, fresh / HEAD)
    return count


def unpacked(packed: Packed) -> Tensor:
    """What is added to a weight: bytes between the least and the greatest value."""
    steps, low, high = (torch.as_tensor(part).float() for part in packed)
    return steps / 255 * (high - low) + low


def names(unet: Any) -> dict[str, str]:
    """Stability's names of a U-Net's weights, by diffusers'."""
    layers = int(unet.config.layers_per_block)
    return {name: _stability(name, layers, unet) for name in unet.state_dict()}


def _add(unet: Any, patch: Mapping[str, Any], weight: float, path: Path) -> int:
    state, found = unet.state_dict(), 0
    for name, theirs in names(unet).items():
        packed = patch.get(f"{PREFIX}{theirs}")
        if packed is None:
            continue
        added = unpacked(packed)
        if added.shape != state[name].shape:
            raise UserError(
                f"{path} was given as Fooocus' inpaint patch.",
                f"Its {theirs} is {list(added.shape)}, and this U-Net's {list(state[name].shape)}.",
                "Give a checkpoint of the family that the patch was made for, SDXL.",
            )
        state[name] += weight * added
        found += 1
    if found != len(patch):
        raise UserError(
            f"{path} was given as Fooocus' inpaint patch.",
            f"Of its {len(patch)} weights this U-Net has {found}.",
            "Give inpaint_v26.fooocus.patch, and a checkpoint of SDXL.",
        )
    return found


def _read(path: Path) -> Mapping[str, Any]:
    """Tensors of a file of torch's; nothing else in it is run."""
    try:
        found: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return found
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} was to be read.",
            f"It is no file of torch's tensors: {str(error).splitlines()[0]}",
            "Download it again, as Fooocus publishes it.",
        ) from error


def _stability(name: str, layers: int, unet: Any) -> str:
    match = BLOCK.match(name)
    if match is None:
        start = next(start for start in OUTER if name.startswith(f"{start}."))
        return OUTER[start] + _inner(name[len(start) :])
    side, block, kind, layer = match[1], int(match[2]), match[3], int(match[4])
    rest = name[match.end() :]
    if kind == "downsamplers":
        return f"input_blocks.{(block + 1) * (layers + 1)}.0.op{rest.removeprefix('.conv')}"
    if side == "down":
        place = f"input_blocks.{1 + block * (layers + 1) + layer}"
    else:
        last = layers if kind == "upsamplers" else layer
        place = f"output_blocks.{block * (layers + 1) + last}"
    number = {"resnets": 0, "attentions": 1}.get(kind)
    if number is None:  # an upsampler comes after what is there
        number = 2 if hasattr(unet.up_blocks[block], "attentions") else 1
    return f"{place}.{number}{_inner(rest)}"


def _inner(rest: str) -> str:
    """Of a weight within a layer: residual blocks are named otherwise, attention alike."""
    part, dot, end = rest.removeprefix(".").partition(".")
    return f".{RESNET.get(part, part)}{dot}{end}"
