"""What an inpainting U-Net takes in: [z_t ; mask ; latents of the picture outside of the mask].

A U-Net of 9 channels was trained on it. One of 4 takes it through new weights of 0, or, where an
inpaint head lies beside it (see `backbones/fooocus.py`), through that.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from insitu.errors import UserError

CHANNELS = 9
HEAD, KEY = "inpaint_head.safetensors", "head"
"""A file in a pipeline's folder, and its tensor [C, 5, 3, 3]."""


class Headed(nn.Module):
    """A U-Net's first layer for latents, and a head for mask and holed latents added to it.

    The head's border is the nearest cell's, as in Fooocus, where a convolution's here is 0.
    """

    def __init__(self, latents: nn.Conv2d, head_CO33: Tensor) -> None:
        super().__init__()
        self.latents = latents
        self.head = nn.Parameter(head_CO33.to(latents.weight), requires_grad=False)

    def forward(self, x_BIhw: Tensor) -> Tensor:
        z, beside = x_BIhw.split([self.latents.in_channels, self.head.shape[1]], dim=1)
        around = functional.pad(beside, (1, 1, 1, 1), mode="replicate")
        found: Tensor = self.latents(z) + functional.conv2d(around, self.head)
        return found


def widen(unet: Any) -> None:
    """Let a U-Net for text-to-image take `CHANNELS` channels, the new ones with weights of 0.

    Until they are trained it predicts what it did; `denoise` still keeps the background.
    """
    old = unet.conv_in
    new = nn.Conv2d(
        CHANNELS, old.out_channels, old.kernel_size, padding=old.padding,
        device=old.weight.device, dtype=old.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        assert new.bias is not None
        new.bias.copy_(old.bias)
    unet.conv_in = new.requires_grad_(old.weight.requires_grad)
    unet.register_to_config(in_channels=CHANNELS)


def headed(unet: Any, folder: Path) -> None:
    """Let it take them through the head of its pipeline's folder.

    Raises:
        UserError: the head is another U-Net's.
    """
    head = load_file(folder / HEAD)[KEY]
    require_head(head, unet.conv_in, str(folder / HEAD))
    unet.conv_in = Headed(unet.conv_in, head)
    unet.register_to_config(in_channels=CHANNELS)


def require_head(head: Tensor, conv_in: nn.Conv2d, name: str) -> None:
    """Refuse a head that does not fit a U-Net's first layer."""
    beside = CHANNELS - conv_in.in_channels
    wanted = (conv_in.out_channels, beside, *conv_in.kernel_size)
    if tuple(head.shape) != wanted:
        raise UserError(
            f"The inpaint head {name} is {list(head.shape)}.",
            f"This U-Net begins with {conv_in.out_channels} features, so it takes {list(wanted)}.",
            "Give the head that was made for this family; Fooocus' is for SDXL.",
        )


def narrowed(unet: Any) -> nn.Conv2d:
    """A copy of the part of the first layer that sees latents alone, frozen."""
    old: Any = unet.conv_in.latents if isinstance(unet.conv_in, Headed) else unet.conv_in
    channels = int(unet.config.out_channels)
    made = nn.Conv2d(
        channels, old.out_channels, old.kernel_size, padding=old.padding,
        device=old.weight.device, dtype=old.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        made.weight.copy_(old.weight[:, :channels])
        assert made.bias is not None and old.bias is not None
        made.bias.copy_(old.bias)
    return made.requires_grad_(False)
