"""What a U-Net's attention sees beside the picture and the text: image tokens, reference features.

Cross-attention gets a second branch over image tokens (IP-Adapter, Ye et al. 2023, eq. 4-5;
LAR-Gen, eq. 5-7), self-attention of the decoder the features of another picture (LAR-Gen, eq.
9-10). Both are diffusers' attention processors, told by `cross_attention_kwargs`, so that LoRA,
checkpointing and sharding work as they do without.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

CROSS, SELF = ".attn2.processor", ".attn1.processor"
BLOCKS = ("down_blocks.", "mid_block.", "up_blocks.")
DECODER = "up_blocks."
Features = dict[str, Tensor]
"""Inputs of self-attention layers after their norm [B, N, D], by the layers' names."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Beside:
    """What the layers see beside their own.

    Attributes:
        tokens: c_i [B, N, D] of the width of the text's context; None = none.
        beta: how much the image's attention counts, [B, 1, 1]; 0 for pictures without an image.
        features: c_obj of each decoder layer.
        present: which pictures have features, bool [B]; None = all.
    """

    tokens: Tensor | None = None
    beta: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    present: Tensor | None = None


class CrossAttention(nn.Module):
    """Z + beta Z', both with the layer's own queries; the new weights are `to_k_ip`, `to_v_ip`.

    The latter begin at zero, so that nothing changes yet.
    """

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context, width, bias=False)
        self.to_v_ip = nn.Linear(context, width, bias=False)
        nn.init.zeros_(self.to_v_ip.weight)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        assert encoder_hidden_states is not None  # cross-attention has a context
        q = _heads(attn, _through(attn.to_q, hidden_states))
        z = _attend(attn, q, attn.to_k, attn.to_v, encoder_hidden_states, attention_mask)
        if beside is not None and beside.tokens is not None:
            assert beside.beta is not None  # given with tokens
            tokens = beside.tokens.to(z.dtype)
            more = _attend(attn, q, self.to_k_ip, self.to_v_ip, tokens, None)
            z = z + beside.beta.to(z.dtype) * more
        return _out(attn, z)


class Attention:
    """Keys and values of the layer's own input, or of the text, and of the features beside it.

    Attributes:
        layer: its name among those of the U-Net, without `.processor`.
        kept: filled with its own input, see `keeping`.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.kept: Features | None = None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        beside: Beside | None = None,
    ) -> Tensor:
        seen = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        mask, own = attention_mask, encoder_hidden_states is None
        if own and self.kept is not None:
            self.kept[self.layer] = hidden_states
        if own and beside is not None and self.layer in beside.features:
            c_obj = beside.features[self.layer].to(hidden_states.dtype)
            seen = torch.cat([hidden_states, c_obj], 1)
            mask = _mask(beside.present, hidden_states.shape[1], c_obj.shape[1])
        q = _heads(attn, _through(attn.to_q, hidden_states))
        return _out(attn, _attend(attn, q, attn.to_k, attn.to_v, seen, mask))


def put(unet: Any, *, tokens: bool) -> nn.ModuleDict:
    """Let attention see what is beside; without it the U-Net predicts what it did.

    Args:
        tokens: cross-attention gets weights for image tokens.

    Returns:
        The new layers, by IP-Adapter's numbers for them.
    """
    learned = nn.ModuleDict()
    for number, (name, attn) in enumerate(attentions(unet)):
        if tokens and name.endswith(CROSS):
            made = CrossAttention(unet.config.cross_attention_dim, attn.to_q.out_features)
            learned[str(number)] = made.to(unet.device)  # in float32, which it learns in
            attn.set_processor(learned[str(number)])
        else:
            attn.set_processor(Attention(name.removesuffix(".processor")))
    return learned


@contextmanager
def keeping(unet: Any) -> Iterator[Features]:
    """What goes into self-attention within a pass, by layer; `put` comes before.

    Layers keep it, since what a pass is given is copied where a U-Net is spread over devices.
    """
    kept: Features = {}
    layers = [attn.processor for name, attn in attentions(unet) if name.endswith(SELF)]
    for layer in layers:
        layer.kept = kept
    try:
        yield kept
    finally:
        for layer in layers:
            layer.kept = None


def remove(unet: Any) -> None:
    """Put diffusers' own processors back."""
    for _, attn in attentions(unet):
        attn.set_processor(AttnProcessor2_0())


def attentions(unet: Any) -> Iterator[tuple[str, Any]]:
    """Attention layers with the names of their processors, in the order that IP-Adapter numbers."""
    for name in unet.attn_processors:
        if name.startswith(BLOCKS):
            yield name, unet.get_submodule(name.removesuffix(".processor"))


def decoder(unet: Any) -> list[str]:
    """Names of the decoder's self-attention layers."""
    return [
        name.removesuffix(".processor")
        for name, _ in attentions(unet)
        if name.startswith(DECODER) and name.endswith(SELF)
    ]


def _heads(attn: Any, x_BND: Tensor) -> Tensor:
    return x_BND.unflatten(-1, (attn.heads, -1)).transpose(1, 2)


def _attend(
    attn: Any, q: Tensor, to_k: Any, to_v: Any, seen_BMD: Tensor, mask: Tensor | None
) -> Tensor:
    k, v = (_heads(attn, _through(layer, seen_BMD)).to(q.dtype) for layer in (to_k, to_v))
    return scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


def _out(attn: Any, z_BND: Tensor) -> Tensor:
    found: Tensor = attn.to_out[1](_through(attn.to_out[0], z_BND))
    return found


def _through(layer: Any, x: Tensor) -> Tensor:
    """A layer that learns in float32 within a model of fewer bits gets and gives the model's."""
    dtype = layer.weight.dtype
    if dtype == x.dtype or not dtype.is_floating_point:
        return layer(x)
    return layer(x.to(dtype)).to(x.dtype)


def _mask(present: Tensor | None, own: int, more: int) -> Tensor | None:
    """Bool [B, 1, 1, own + more]: features of pictures that have none are not seen."""
    if present is None or bool(present.all()):
        return None
    seen = present[:, None].expand(-1, own + more).clone()
    seen[:, :own] = True
    return seen[:, None, None]
