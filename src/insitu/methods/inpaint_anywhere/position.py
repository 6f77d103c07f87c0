"""The position encoder: a box becomes one token."""

import math

import torch
from torch import Tensor, nn


class PositionEncoder(nn.Sequential):
    """Box -> Fourier features -> MLP -> a token of the transformer's width.

    Args:
        width: of the token and of the hidden layer.
        frequencies: of each number: sin and cos of 2^f pi x, f from 0.
    """

    def __init__(self, width: int, frequencies: int) -> None:
        features = 4 * 2 * frequencies
        super().__init__(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.frequencies = frequencies

    def forward(self, boxes_B4: Tensor) -> Tensor:
        """xyxy in 0..1 -> [B, 1, width]."""
        powers = 2.0 ** torch.arange(self.frequencies, device=boxes_B4.device)
        angles = (boxes_B4.float()[..., None] * powers * math.pi).flatten(-2)
        hidden: Tensor = super().forward(torch.cat([angles.sin(), angles.cos()], -1))
        return hidden[:, None]
