"""Which of a face's pictures a step learns from: its own, or another of the same identity."""

from collections.abc import Sequence

import torch
from torch import Tensor


def replacement(progress_B: Tensor, most: float, milestones: Sequence[float]) -> Tensor:
    """p [B], rising from 0 to `most` in equal steps, one at each share of the training (A.2, 2).

    The milestone 0 alone makes it `most` from the start, a fixed probability (Table B).
    """
    at = torch.tensor(milestones, device=progress_B.device, dtype=progress_B.dtype)
    passed = (progress_B[:, None] >= at).sum(1)
    return most * passed / len(milestones)


def variants(chances_BF: Tensor, p_B: Tensor, count: int) -> Tensor:
    """The number of each face's picture, [B, F]: from 0 its own ones, from `count` others.

    One chance decides both: below p it is another face, and where below p says which.
    """
    p = p_B[:, None]
    replaced = chances_BF < p
    share = torch.where(replaced, chances_BF / p, (chances_BF - p) / (1 - p))
    return (share * count).long().clamp(max=count - 1) + count * replaced
