"""Image tokens and reference features in a U-Net's attention.

Proves that image tokens are diffusers' IP-Adapter with the same weights, in the published format,
for SDXL's and SD1.5's shapes; that beta 0 and no features are the plain U-Net; and that features of
pictures that have none are not seen.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from insitu.backbones.loading import choose_device
from insitu.backbones.unet import InpaintBackbone, Text, beside
from insitu.backbones.unet.beside import Beside
from insitu.backbones.unet.image_tokens import load_public, resampler
from insitu.errors import UserError
from insitu.params import Checkpoint
from tests import tiny

TOKENS, FEATURES, WIDTH, HEAD = 4, 12, 16, 64
"""Of the image; CLIP's width; the resampler's, whose heads diffusers takes to be 64 wide."""


@pytest.fixture(params=["sdxl", "sd"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> InpaintBackbone:
    torch.manual_seed(0)
    tiny.inpainting(tmp_path, family=request.param, channels=9)
    device = choose_device("cpu")
    return InpaintBackbone.load(Checkpoint(path=str(tmp_path)), device=device)


def asked(base: InpaintBackbone) -> tuple[Tensor, Tensor, Tensor, Tensor, Text]:
    torch.manual_seed(1)
    z, holed, mask = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.ones(2, 1, 16, 16)
    return z, torch.tensor([10, 700]), mask, holed, base.encode_text(("a red mug", "a boat"))


def published(base: InpaintBackbone) -> dict[str, dict[str, Tensor]]:
    """Random weights of an IP-Adapter-Plus by its published names."""
    torch.manual_seed(2)
    unet, context = base.unet, base.unet.config.cross_attention_dim
    heads = 64 // HEAD
    shapes = {
        "latents": (1, TOKENS, 64), "proj_in.weight": (64, FEATURES), "proj_in.bias": (64,),
        "proj_out.weight": (context, 64), "proj_out.bias": (context,),
        "norm_out.weight": (context,), "norm_out.bias": (context,),
    }  # fmt: skip
    for layer in range(4):
        own = f"layers.{layer}"
        shapes |= {
            f"{own}.0.norm1.weight": (64,), f"{own}.0.norm1.bias": (64,),
            f"{own}.0.norm2.weight": (64,), f"{own}.0.norm2.bias": (64,),
            f"{own}.0.to_q.weight": (heads * HEAD, 64),
            f"{own}.0.to_kv.weight": (2 * heads * HEAD, 64),
            f"{own}.0.to_out.weight": (64, heads * HEAD),
            f"{own}.1.0.weight": (64,), f"{own}.1.0.bias": (64,),
            f"{own}.1.1.weight": (256, 64), f"{own}.1.3.weight": (64, 256),
        }  # fmt: skip
    layers = {}
    for number, (name, attn) in enumerate(beside.attentions(unet)):
        if name.endswith(beside.CROSS):
            for part in ("to_k_ip", "to_v_ip"):
                layers[f"{number}.{part}.weight"] = torch.randn(attn.to_q.out_features, context)
    return {
        "image_proj": {k: torch.randn(v) / 8 for k, v in shapes.items()},
        "ip_adapter": layers,
    }


def saved(weights: dict[str, dict[str, Tensor]], path: Path) -> Path:
    save_file({f"{a}.{b}": t for a, own in weights.items() for b, t in own.items()}, path)
    return path


def test_image_tokens_are_the_ip_adapters_of_diffusers(
    base: InpaintBackbone, tmp_path: Path
) -> None:
    weights, beta = published(base), 0.7
    features = torch.randn(2, 5, FEATURES)
    pipeline = base.family.pipeline.from_pretrained(base.checkpoint.path)
    pipeline.unet._load_ip_adapter_weights([weights], low_cpu_mem_usage=False)
    pipeline.set_ip_adapter_scale(beta)
    z, t, mask, holed, text = asked(base)
    told: Any = base.family.told(text, base.size, base.size, torch.float32) or {}
    expected = pipeline.unet(
        torch.cat([z, mask, holed], 1), t, encoder_hidden_states=text.context,
        added_cond_kwargs={**told, "image_embeds": [features[:, None]]},
    ).sample  # fmt: skip

    layers = beside.put(base.unet, tokens=True)
    made = load_public(
        saved(weights, tmp_path / "plus.safetensors"), base.unet, layers, tokens=TOKENS
    )
    seen = Beside(tokens=made(features), beta=torch.full((2, 1, 1), beta))
    assert_close(
        base.predict(z, t, mask, holed, text, lambda: seen), expected, atol=1e-5, rtol=1e-5
    )


def test_without_anything_beside_it_is_the_plain_u_net(base: InpaintBackbone) -> None:
    z, t, mask, holed, text = asked(base)
    plain = base.predict(z, t, mask, holed, text)
    beside.put(base.unet, tokens=True)
    context = base.unet.config.cross_attention_dim
    nothing = Beside(tokens=torch.randn(2, TOKENS, context), beta=torch.zeros(2, 1, 1))
    for see in (Beside, lambda: nothing):
        assert_close(base.predict(z, t, mask, holed, text, see), plain)
    beside.remove(base.unet)
    assert torch.equal(base.predict(z, t, mask, holed, text), plain)


def test_features_are_keys_and_values_of_the_decoder(base: InpaintBackbone) -> None:
    """Against the formula, in the last decoder layer, whose queries see what follows directly."""
    z, t, mask, holed, text = asked(base)
    beside.put(base.unet, tokens=False)
    with beside.keeping(base.unet) as kept:
        plain = base.predict(z, t, mask, holed, text)
    layers = beside.decoder(base.unet)
    assert layers and set(layers) < set(kept)
    assert all(name.startswith("up_blocks.") for name in layers)
    last = layers[-1]
    attn, own = base.unet.get_submodule(last), kept[last]
    c_obj = torch.randn_like(own)
    seen = torch.cat([own, c_obj], 1)
    q, k, v = (
        layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for layer, x in ((attn.to_q, own), (attn.to_k, seen), (attn.to_v, seen))
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    expected = attn.to_out[0]((weights @ v).transpose(1, 2).flatten(2))
    got = attn(own, beside=Beside(features={last: c_obj}))
    assert_close(got, expected, atol=1e-5, rtol=1e-5)

    features = {last: c_obj}
    whole = base.predict(z, t, mask, holed, text, lambda: Beside(features=features))
    assert not torch.allclose(whole, plain)
    some = Beside(features=features, present=torch.tensor([False, True]))
    partly = base.predict(z, t, mask, holed, text, lambda: some)
    assert_close(partly[0], plain[0])
    assert_close(partly[1], whole[1])


@pytest.mark.parametrize("broken", ["latents", "layer", "tokens"])
def test_weights_that_do_not_fit_are_refused(
    base: InpaintBackbone, tmp_path: Path, broken: str
) -> None:
    weights = published(base)
    layers = beside.put(base.unet, tokens=True)
    if broken == "latents":
        del weights["image_proj"]["latents"]
    if broken == "layer":
        weights["ip_adapter"].popitem()
    path = saved(weights, tmp_path / "plus.safetensors")
    with pytest.raises(UserError, match=r"plus\.safetensors"):
        load_public(path, base.unet, layers, tokens=TOKENS + (broken == "tokens"))


def test_the_resampler_gives_as_many_tokens_as_asked() -> None:
    made = resampler(FEATURES, 32, width=WIDTH, depth=2, head=8, tokens=TOKENS)
    assert made(torch.randn(3, 5, FEATURES)).shape == (3, TOKENS, 32)
