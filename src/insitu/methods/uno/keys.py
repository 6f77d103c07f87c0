"""The names of UNO's published adapter, whose base has q, k and v in one layer."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from insitu.errors import UserError

PUBLISHED = re.compile(
    r"(?P<kind>double|single)_blocks\.(?P<block>\d+)\.processor\."
    r"(?P<layer>qkv|proj)_lora(?P<stream>[12]?)\.(?P<part>down|up)\.weight"
)
QKV = {
    "1": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "2": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "": ("attn.to_q", "attn.to_k", "attn.to_v"),
}
OUT = {"1": "attn.to_out.0", "2": "attn.to_add_out", "": "proj_out"}
BLOCKS = {"double": "transformer_blocks", "single": "single_transformer_blocks"}


def is_published(state: Mapping[str, Tensor]) -> bool:
    """Whether weights have the published names."""
    return any(PUBLISHED.fullmatch(name) for name in state)


def from_published(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same adapter by PEFT's names after `prefix`.

    One `down` serves q, k and v, and `up` holds theirs one after the other.

    Raises:
        UserError: a name is none of the published ones.
    """
    found: dict[str, Tensor] = {}
    for name, weight in state.items():
        match = PUBLISHED.fullmatch(name)
        if match is None:
            raise UserError(
                "An adapter with the names of UNO's published one was to be loaded.",
                f"{name} is none of them.",
                "Use the published file as it is, or one that insitu has trained.",
            )
        stream, part = match["stream"], {"down": "lora_A", "up": "lora_B"}[match["part"]]
        layers = QKV[stream] if match["layer"] == "qkv" else (OUT[stream],)
        parts = [weight] * len(layers) if part == "lora_A" else weight.chunk(len(layers))
        for layer, own in zip(layers, parts, strict=True):
            key = f"{prefix}{BLOCKS[match['kind']]}.{match['block']}.{layer}.{part}.weight"
            found[key] = own.to(torch.float32)
    return found
