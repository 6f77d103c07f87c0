"""Layers of a stream: linear ones with adapters by token, modulations by kind of branch."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from insitu.backbones.branches.layout import Spans, Stream


def project(layer: Any, x_BND: Tensor, acting: Spans) -> Tensor:
    """A linear layer, with each LoRA added on the tokens that it acts on.

    W x + s B A x (Hu et al. 2021, eq. 3). An adapter whose scale is 0 is not computed, so that the
    layer is bit for bit the base's.
    """
    if not isinstance(layer, LoraLayer):
        return layer(x_BND)
    out = layer.base_layer(x_BND)
    adding = [
        (name, range(out.shape[1])[span])
        for name, spans in acting.items()
        if name in layer.lora_A and layer.scaling[name] != 0
        for span in spans
    ]
    if not adding:
        return out
    edges = sorted({0, out.shape[1]} | {e for _, span in adding for e in (span.start, span.stop)})
    parts = pieces(x_BND, edges)
    added = list(pieces(out, edges))
    for name, span in adding:
        a: Any = layer.lora_A[name]
        b: Any = layer.lora_B[name]
        for k in range(edges.index(span.start), edges.index(span.stop)):
            x = layer.lora_dropout[name](parts[k].to(a.weight.dtype))
            added[k] = added[k] + (layer.scaling[name] * b(a(x))).to(out.dtype)
    return added[0] if len(added) == 1 else torch.cat(added, 1)


def pieces(x: Tensor, edges: Sequence[int], dim: int = 1) -> Sequence[Tensor]:
    """A tensor cut at edges, the first 0, the last its length.

    In one operation, whose gradient is one concatenation: slices would each have a gradient as
    large as the whole, zeros but for one part, to be added up.
    """
    if len(edges) == 2:
        return (x,)
    return x.split([stop - start for start, stop in itertools.pairwise(edges)], dim)


def modulation(
    linear: nn.Module, rows_BMD: Tensor, stream: Stream, parts: int
) -> tuple[Tensor, ...]:
    """Shifts, scales and gates [B, M, D], a row for each kind of branch in the stream."""
    vectors = nn.functional.silu(rows_BMD)
    return project(linear, vectors, stream.acting_on_rows).chunk(parts, -1)


def moved(x_BND: Tensor, shift_BMD: Tensor, scale_BMD: Tensor, stream: Stream) -> Tensor:
    """x (1 + scale) + shift, by kind."""
    return _by_kind(lambda x, a, b: x * (1 + b) + a, x_BND, shift_BMD, scale_BMD, stream=stream)


def gated(x_BND: Tensor, gate_BMD: Tensor, stream: Stream) -> Tensor:
    """gate x, by kind."""
    return _by_kind(lambda x, gate: gate * x, x_BND, gate_BMD, stream=stream)


def feed_forward(layer: Any, x_BND: Tensor, stream: Stream) -> Tensor:
    """diffusers' `FeedForward` with an approximated GELU, adapters by token."""
    activation, dropout, out = layer.net
    hidden = activation.gelu(project(activation.proj, x_BND, stream.acting))
    return project(out, dropout(hidden), stream.acting)


def _by_kind(
    formula: Callable[..., Tensor], x_BND: Tensor, *rows_BMD: Tensor, stream: Stream
) -> Tensor:
    edges = [0, *(run.stop for run, _ in stream.runs)]
    done = [
        formula(part, *(row[:, k : k + 1] for row in rows_BMD))
        for part, (_, k) in zip(pieces(x_BND, edges), stream.runs, strict=True)
    ]
    return done[0] if len(done) == 1 else torch.cat(done, 1)


def of_branch(adapters: tuple[str, ...]) -> Mapping[str, tuple[slice, ...]]:
    """Adapters that act on all tokens."""
    return dict.fromkeys(adapters, (slice(None),))
