"""Attention by views, and rotary positions. Shapes: B batch, N tokens, H heads, d head width."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from insitu.backbones.branches.layout import View

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, [B or 1, N, 1, d] each."""


def rotate(x_BNHd: Tensor, rotary: Rotary) -> Tensor:
    """Turn neighbouring pairs of numbers by their positions' angles (Su et al. 2021, eq. 34)."""
    cos, sin = rotary
    real, imaginary = x_BNHd.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-imaginary, real], -1).flatten(-2)
    return (x_BNHd.float() * cos + turned.float() * sin).to(x_BNHd.dtype)


def attend(q_BNHd: Tensor, k_BNHd: Tensor, v_BNHd: Tensor, views: Sequence[View]) -> Tensor:
    """What each query sees, [B, queries, H d], in the order of the queries.

    Each view is one softmax over its keys; what no view holds is never multiplied.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BNHd, k_BNHd, v_BNHd))
    seen: list[tuple[slice, Tensor]] = []
    for view in views:
        got = scaled_dot_product_attention(
            _picked(q, view.queries), _picked(k, view.keys), _picked(v, view.keys), view.mask
        )
        lengths = [span.stop - span.start for span in view.queries]
        seen += zip(view.queries, got.split(lengths, 2), strict=True)
    in_order = [part for _, part in sorted(seen, key=lambda one: one[0].start)]
    joined = in_order[0] if len(in_order) == 1 else torch.cat(in_order, 2)
    return joined.transpose(1, 2).flatten(2)


def _picked(x_BHNd: Tensor, spans: Sequence[slice]) -> Tensor:
    if len(spans) > 1:
        return torch.cat([x_BHNd[:, :, span] for span in spans], 2)
    # All of it is no slice: the gradient of one would be written out in full and added.
    whole = spans[0] == slice(0, x_BHNd.shape[2])
    return x_BHNd if whole else x_BHNd[:, :, spans[0]]
