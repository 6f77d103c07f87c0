"""The two kinds of blocks of FLUX's transformer, which take branches where diffusers' take two."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import Tensor, nn

from insitu.backbones.branches.attention import Rotary, attend, rotate
from insitu.backbones.branches.layers import feed_forward, gated, modulation, moved, project
from insitu.backbones.branches.layout import Layout, Pass, View

Kept = dict[str, Tensor]
"""Keys `k` and values `v` [B, N, H, d] of a block's frozen branches; empty until they are kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What the blocks of one pass have in common.

    Attributes:
        rows: what modulations are made from, by stream, [B, kinds, D].
        rotary: of the joint stream's tokens.
        beside: see `Inputs.beside`.
    """

    layout: Layout
    through: Pass
    rows: Mapping[str, Tensor]
    rotary: Rotary
    beside: Mapping[str, Tensor] = field(default_factory=dict)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, views: tuple[View, ...], kept: Kept | None
    ) -> Tensor:
        """Attention of computed tokens, with keys and values that are kept, or now become so."""
        if kept:
            k, v = torch.cat([k, kept["k"]], 1), torch.cat([v, kept["v"]], 1)
        elif kept is not None:
            spans = [self.through.joint.spans[branch.name] for branch in self.layout.kept]
            kept["k"] = torch.cat([k[:, span] for span in spans], 1)
            kept["v"] = torch.cat([v[:, span] for span in spans], 1)
        return attend(q, k, v, views)


class DoubleBlock(FluxTransformerBlock):
    """Text and image have weights of their own and attend together.

    Attributes:
        beside: layers that read `Inputs.beside`, by name: queries of the output [B, N, H, d],
            normed and without positions, and tokens [B, M, features] -> [B, N, H d].
    """

    beside: nn.ModuleDict

    def forward(self, *given: Any, **options: Any) -> Any:
        if len(given) == 4 and isinstance(given[2], Run):
            return self._branches(*given)
        return super().forward(*given, **options)

    def _branches(
        self, text: Tensor, image: Tensor, run: Run, kept: Kept | None
    ) -> tuple[Tensor, Tensor]:
        attn, t, i = self.attn, run.through.text, run.through.image
        mod_t = modulation(self.norm1_context.linear, run.rows["text"], t, 6)
        mod_i = modulation(self.norm1.linear, run.rows["image"], i, 6)
        shift_t, scale_t, gate_t, shift_t2, scale_t2, gate_t2 = mod_t
        shift_i, scale_i, gate_i, shift_i2, scale_i2, gate_i2 = mod_i

        h_t = moved(self.norm1_context.norm(text), shift_t, scale_t, t)
        h_i = moved(self.norm1.norm(image), shift_i, scale_i, i)
        q_t, k_t, v_t = (
            project(layer, h_t, t.acting).unflatten(-1, (-1, attn.head_dim))
            for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)
        )
        q_i, k_i, v_i = (
            project(layer, h_i, i.acting).unflatten(-1, (-1, attn.head_dim))
            for layer in (attn.to_q, attn.to_k, attn.to_v)
        )
        q_i = attn.norm_q(q_i)
        q = rotate(torch.cat([attn.norm_added_q(q_t), q_i], 1), run.rotary)
        k = rotate(torch.cat([attn.norm_added_k(k_t), attn.norm_k(k_i)], 1), run.rotary)
        seen = run.attend(q, k, torch.cat([v_t, v_i], 1), run.through.views, kept)
        seen_t, seen_i = seen.split([t.length, i.length], 1)

        text = text + gated(project(attn.to_add_out, seen_t, t.acting), gate_t, t)
        image = image + gated(project(attn.to_out[0], seen_i, i.acting), gate_i, i)
        h_t = moved(self.norm2_context(text), shift_t2, scale_t2, t)
        h_i = moved(self.norm2(image), shift_i2, scale_i2, i)
        text = text + gated(feed_forward(self.ff_context, h_t, t), gate_t2, t)
        image = image + gated(feed_forward(self.ff, h_i, i), gate_i2, i)
        for name, tokens in run.beside.items():
            out = i.spans[run.layout.output]
            own = image[:, out] + self.beside[name](q_i[:, out], tokens)
            image = torch.cat([image[:, : out.start], own, image[:, out.stop :]], 1)
        return text, image


class SingleBlock(FluxSingleTransformerBlock):
    """Attention beside the feed-forward layer, with one set of weights for all tokens."""

    def forward(self, *given: Any, **options: Any) -> Any:
        if len(given) == 4 and isinstance(given[1], Run):
            return self._branches(*given)
        return super().forward(*given, **options)

    def _branches(self, joint: Tensor, run: Run, kept: Kept | None, last: bool) -> Tensor:
        """The stream after the block; after the last one the output's tokens, all that counts."""
        attn, through, stream = self.attn, run.through, run.through.joint
        shift, scale, gate = modulation(self.norm.linear, run.rows["joint"], stream, 3)
        h = moved(self.norm.norm(joint), shift, scale, stream)
        k, v = (
            project(layer, h, stream.acting).unflatten(-1, (-1, attn.head_dim))
            for layer in (attn.to_k, attn.to_v)
        )
        k, rotary, views = rotate(attn.norm_k(k), run.rotary), run.rotary, through.views
        if last:
            cos, sin = rotary
            joint, h, rotary = (
                joint[:, through.span],
                h[:, through.span],
                (cos[:, through.span], sin[:, through.span]),
            )
            gate = gate[:, through.row : through.row + 1]
            stream, views = through.output, through.last
        q = project(attn.to_q, h, stream.acting).unflatten(-1, (-1, attn.head_dim))
        seen = run.attend(rotate(attn.norm_q(q), rotary), k, v, views, kept)
        fed = self.act_mlp(project(self.proj_mlp, h, stream.acting))
        out = project(self.proj_out, torch.cat([seen, fed], 2), stream.acting)
        return joint + gated(out, gate, stream)
