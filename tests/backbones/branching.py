"""Tiny random transformers and layouts for the engine's tests."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig
from torch import Tensor

from insitu.backbones import adapters
from insitu.backbones.branches import Branch, BranchTransformer, Inputs, Layout, branching

CHANNELS, WORDS, POOLED = 8, 12, 10
WIDE = r".*(to_q|to_k|to_v|to_out\.0|norm1?\.linear|proj_mlp|(?<!^)proj_out|ff\.net\.2)"


def transformer(*, double: int = 1, single: int = 2, guidance: bool = True) -> BranchTransformer:
    torch.manual_seed(0)
    plain = FluxTransformer2DModel(
        patch_size=1, in_channels=CHANNELS, num_layers=double, num_single_layers=single,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=WORDS,
        pooled_projection_dim=POOLED, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return branching(plain.requires_grad_(False).eval())


def grid(height: int, width: int, *, kind: int = 0, shift: int = 0) -> Tensor:
    """Position ids [height width, 3], `shift` columns to the right."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ids = torch.stack([torch.full_like(rows, kind), rows, columns + shift], -1)
    return ids.reshape(-1, 3).float()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(layout: Layout, *, batch: int = 2, seed: int = 0, **more: Any) -> Inputs:
    """Random tokens for each branch; the same name has the same ones."""
    width = {"text": WORDS, "latent": CHANNELS, "model": 32}
    given: dict[str, Any] = {
        "tokens": {
            branch.name: random(
                batch, branch.length, width[branch.space], seed=seed + sum(map(ord, branch.name))
            )
            for branch in layout.branches
        },
        "pooled": random(batch, POOLED, seed=seed + 1),
        "t": torch.linspace(0.2, 0.9, batch),
        "guidance": torch.full((batch,), 3.5),
    }  # fmt: skip
    return Inputs(**{**given, **more})


def two_references(
    *, sees: Mapping[str, Sequence[str]] | None = None, output: str = "image", **options: Any
) -> Layout:
    """Text, a picture, two clean references `a` and `b` that see only themselves."""
    names = ["text", "image", "a", "b"]
    return Layout(
        [
            Branch(name="text", ids=torch.zeros(3, 3), space="text"),
            Branch(name="image", ids=grid(2, 3)),
            Branch(name="a", ids=grid(2, 2, shift=3), clean=True, **options),
            Branch(name="b", ids=grid(2, 2, shift=6), clean=True, **options),
        ],
        sees or {"text": names, "image": names, "a": ["a"], "b": ["b"]},
        output=output,
    )


def lora(model: BranchTransformer, name: str, *, seed: int = 7) -> None:
    """An adapter that already has an effect."""
    adapters.attach(model, LoraConfig(r=2, lora_alpha=4, target_modules=WIDE), name)
    for k, p in enumerate(adapters.layers(model, name).parameters()):
        p.data = random(*p.shape, seed=seed + k) / 3
