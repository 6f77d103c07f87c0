"""FLUX's transformer, branch by branch (the formulas are `diffusers.FluxTransformer2DModel`'s).

The checkpoint's own modules do the work, under their own names: only the classes' `forward` takes
branches. Called without a layout, the model is diffusers' own.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from diffusers import FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from insitu.backbones.branches.attention import Rotary
from insitu.backbones.branches.blocks import DoubleBlock, Kept, Run, SingleBlock
from insitu.backbones.branches.cache import Cache, Following
from insitu.backbones.branches.layers import of_branch, project
from insitu.backbones.branches.layout import Layout, Pass, Stream

Named = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """What changes from call to call.

    Attributes:
        tokens: of each branch, [B, N, features, channels of packed latents or the model's width].
            They, or offsets, may be what gives them, called within the transformer's pass: there a
            part that was put into the transformer has its weights even where these are spread over
            devices or offloaded.
        pooled: the pooled prompt, [B, P].
        t: [B] in [0, 1], 1 = noise.
        guidance: [B], for a transformer with a guidance embedding.
        offsets: added to what modulations of `shifted` branches are made from, [B, D] by name.
        beside: tokens that the output looks at beside the joint attention, [B, M, features], by the
            name of the layers in each double-stream block that read them and add to its stream.
    """

    tokens: Named | Callable[[], Named]
    pooled: Tensor
    t: Tensor
    guidance: Tensor | None = None
    offsets: Named | Callable[[], Named] = field(default_factory=dict)
    beside: Named = field(default_factory=dict)


def branching(transformer: Any) -> "BranchTransformer":
    """The same transformer, weights and adapters untouched, which now takes branches, too."""
    transformer.__class__ = BranchTransformer
    for block in transformer.transformer_blocks:
        block.__class__ = DoubleBlock
    for block in transformer.single_transformer_blocks:
        block.__class__ = SingleBlock
    return cast(BranchTransformer, transformer)


def of_conditions(transformer: Any, targets: str) -> str:
    """A pattern of layers without those that only the output's tokens go through.

    Of the last block other branches' keys and values alone are seen: an adapter of theirs on what
    comes after would get no gradient, and a run of several processes would wait for it.
    """
    if singles := len(transformer.single_transformer_blocks):
        last = rf"single_transformer_blocks\.{singles - 1}\.(attn\.to_q|proj_mlp|proj_out)"
    else:
        doubles = len(transformer.transformer_blocks)
        last = rf"transformer_blocks\.{doubles - 1}\.(attn\.to_q|attn\.to_out\.0|ff\..*)"
    return f"(?!({last})$)({targets})"


class BranchTransformer(FluxTransformer2DModel):
    """See `forward`."""

    _repeated_blocks = ["DoubleBlock", "SingleBlock"]  # noqa: RUF012 (a list in diffusers, too)
    _no_split_modules = _repeated_blocks

    def forward(
        self,
        *given: Any,
        layout: Layout | None = None,
        inputs: Inputs | None = None,
        cache: Cache | None = None,
        **options: Any,
    ) -> Any:
        """The velocity of the layout's output branch, [B, N, C]; without a layout, as diffusers.

        Args:
            cache: frozen branches are left out where it holds for these inputs; else it is filled.
        """
        if layout is None or inputs is None:
            return super().forward(*given, **options)
        tokens, offsets = _now(inputs.tokens), _now(inputs.offsets)
        blocks, through = self._kept(layout, tokens, offsets, inputs.pooled, cache)
        vectors = self._vectors(through.joint, inputs)
        rows = {
            name: _rows(stream, vectors, offsets)
            for name, stream in vars(through).items()
            if name in ("text", "image", "joint")
        }
        beside = {name: features.to(self.dtype) for name, features in inputs.beside.items()}
        run = Run(
            layout=layout, through=through, rows=rows, rotary=self._rotary(through), beside=beside
        )
        text, image = self._embedded(through.text, tokens), self._embedded(through.image, tokens)
        doubles = len(self.transformer_blocks)
        for double, kept in zip(self.transformer_blocks, blocks[:doubles], strict=True):
            text, image = self._through(double, text, image, run, kept)
        joint = torch.cat([text, image], 1)
        singles = len(self.single_transformer_blocks)
        for k, (single, kept) in enumerate(
            zip(self.single_transformer_blocks, blocks[doubles:], strict=True)
        ):
            joint = self._through(single, joint, run, kept, k + 1 == singles)
        out = joint if singles else joint[:, through.span]
        acting = of_branch(layout[layout.output].adapters)
        vector = nn.functional.silu(rows["joint"][:, through.row : through.row + 1])
        scale, shift = project(self.norm_out.linear, vector, acting).chunk(2, -1)
        return project(self.proj_out, self.norm_out.norm(out) * (1 + scale) + shift, acting)

    def _kept(
        self,
        layout: Layout,
        tokens: Named,
        offsets: Named,
        pooled: Tensor,
        cache: Cache | None,
    ) -> tuple[list[Kept] | list[None], Pass]:
        """What each block keeps, and which branches are computed."""
        blocks = len(self.transformer_blocks) + len(self.single_transformer_blocks)
        if cache is None or not layout.frozen:
            return [None] * blocks, layout.whole
        following = [pooled, *self._following(layout, tokens, offsets)]
        if cache.holds(following):
            return cache.blocks, layout.live
        cache.begin(following, blocks)
        return cache.blocks, layout.whole

    def _following(self, layout: Layout, tokens: Named, offsets: Named) -> Following:
        """All that frozen branches' keys and values follow from, but for base and prompt."""
        found: list[Tensor | str | float | None] = []
        for branch in layout.kept:
            found += [branch.name, ",".join(branch.adapters), branch.ids, branch.present]
            found += [tokens[branch.name], offsets.get(branch.name)]
            for name, mask in layout.sees[branch.name].items():
                found += [name, mask]
        adapters = {adapter for branch in layout.kept for adapter in branch.adapters}
        for layer in _adapted(self) if adapters else ():
            for adapter in sorted(adapters & layer.lora_A.keys()):
                a, b = layer.lora_A[adapter], layer.lora_B[adapter]
                found += [adapter, float(layer.scaling[adapter]), a.weight, b.weight]
        return found

    def _embedded(self, stream: Stream, tokens: Named) -> Tensor:
        """Tokens at the transformer's width, [B, N, D]."""
        found = []
        for branch in stream.branches:
            own = tokens[branch.name].to(self.dtype)
            if branch.space != "model":
                layer = self.context_embedder if branch.space == "text" else self.x_embedder
                own = project(layer, own, of_branch(branch.adapters))
            found.append(own)
        return torch.cat(found, 1)

    def _vectors(self, stream: Stream, inputs: Inputs) -> dict[bool, Tensor]:
        """What modulations are made from, [B, D]: at the step's time, and where clean at 0."""
        if self.config.guidance_embeds and inputs.guidance is None:
            raise ValueError("this transformer has a guidance embedding: give `guidance`")
        found = {}
        for clean in sorted({branch.clean for branch in stream.branches}):
            times = [torch.zeros_like(inputs.t) if clean else inputs.t]
            if self.config.guidance_embeds and inputs.guidance is not None:
                times.append(torch.ones_like(inputs.guidance) if clean else inputs.guidance)
            thousandths = [t.to(self.dtype) * 1000 for t in times]
            found[clean] = self.time_text_embed(*thousandths, inputs.pooled.to(self.dtype))
        return found

    def _rotary(self, through: Pass) -> Rotary:
        """Of the joint stream; kept there, as positions are the same at each step."""
        if through.rotary is None:
            ids = [branch.ids for branch in through.joint.branches]
            batch = max((len(each) for each in ids if each.ndim == 3), default=1)
            joint = torch.cat([each.float().expand(batch, -1, -1) for each in ids], 1)
            cos, sin = self.pos_embed(joint.flatten(0, 1))
            shape = (batch, joint.shape[1], 1, -1)
            through.rotary = cos.view(shape), sin.view(shape)
        return through.rotary

    @property
    def dtype(self) -> torch.dtype:
        """Of the base's weights. diffusers' own walks through all modules, at each question."""
        return next(p.dtype for p in self.parameters() if p.is_floating_point())

    def _through(self, block: Any, *given: Any) -> Any:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *given)
        return block(*given)


def _rows(stream: Stream, vectors: Mapping[bool, Tensor], offsets: Named) -> Tensor:
    """[B, kinds, D]."""
    rows = []
    for branch in stream.kinds:
        vector = vectors[branch.clean]
        if branch.shifted:
            vector = vector + offsets[branch.name].to(vector.dtype)
        rows.append(vector)
    return torch.stack(rows, 1)


def _adapted(model: nn.Module) -> Iterator[Any]:
    """Layers with adapters. A walk without `modules()`'s memory takes a tenth of its time."""
    left = [model]
    while left:
        module = left.pop()
        if isinstance(module, LoraLayer):
            yield module
        else:
            left += [child for child in module._modules.values() if child is not None]


def _now(values: Named | Callable[[], Named]) -> Named:
    return values() if callable(values) else values
