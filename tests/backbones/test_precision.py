"""Proves that a quantized base paints nearly as before, takes the bytes that are foretold, and lets
an adapter learn on it and nothing else. Needs no weights: small random checkpoints of the real
classes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from torch import nn

from insitu.backbones import precision as precision_module
from insitu.backbones.adapters import attach
from insitu.backbones.precision import (
    LIBRARY,
    Precision,
    Quantize,
    load_pipeline,
    weights_bytes,
)
from insitu.backbones.unet import InpaintBackbone
from insitu.methods.dreammix import DreamMix
from insitu.params import Checkpoint
from insitu.synthesis.generators import FluxGenerator, FluxSettings
from tests.backbones.held import (
    CPU,
    CUDA,
    ERROR,
    METHOD,
    MODES,
    draw,
    each_mode,
    error,
    flux,
    guess,
    load,
    needs,
    refusals_lifted,
    request,
    sdxl,
    stored,
    tell,
)

__all__ = ["flux", "load", "sdxl"]


@each_mode
def test_a_quantized_base_predicts_nearly_the_same_in_fewer_bytes(
    load: Callable[[Quantize], tuple[InpaintBackbone, Precision]], kind: Quantize
) -> None:
    plain, _ = load("none")
    small, held = load(kind)
    wanted = weights_bytes(plain.unet, held)
    assert stored(small.unet) == wanted < stored(plain.unet)
    found = error(guess(small), guess(plain))
    assert 0 < found < ERROR[kind]
    assert small.pipeline.vae.dtype == small.pipeline.text_encoder_2.dtype == torch.bfloat16
    assert stored(small.pipeline.vae) == stored(plain.pipeline.vae)


@each_mode
def test_dreammix_learns_and_paints_on_it_and_leaves_no_trace(
    load: Callable[[Quantize], tuple[InpaintBackbone, Precision]], kind: Quantize
) -> None:
    backbone, _ = load(kind)
    method = DreamMix(METHOD)
    before, untuned = guess(backbone), method.paint(backbone, [request()])[0]
    adapter = method.attach(backbone)
    told, t = tell(backbone), torch.tensor([0.3, 0.6])
    noise = torch.randn(told["z_0"].shape, generator=torch.Generator().manual_seed(2))
    optimizer = torch.optim.Adam(adapter.parameters(), 0.02)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = torch.stack(list(method.loss(backbone, told, noise, t).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    learning = {id(parameter) for parameter in adapter.parameters()}
    reached = {id(p) for p in backbone.unet.parameters() if p.grad is not None}
    assert reached == learning
    assert losses[-1] < losses[0]
    assert not np.array_equal(method.paint(backbone, [request()])[0], untuned)
    method.detach(backbone)
    assert torch.equal(guess(backbone), before)
    assert np.array_equal(method.paint(backbone, [request()])[0], untuned)


@each_mode
def test_its_adapter_is_named_as_any_other_and_learns_in_float32(
    load: Callable[[Quantize], tuple[InpaintBackbone, Precision]], kind: Quantize
) -> None:
    files = []
    for backbone in (load("none")[0], load(kind)[0]):
        config = LoraConfig(r=2, target_modules=["to_k", "proj_out"])
        attach(backbone.unet, config, "dreammix")
        files.append(DreamMix(METHOD).state(backbone))
    shapes = [{name: value.shape for name, value in file.items()} for file in files]
    assert shapes[0] == shapes[1] and shapes[0]
    assert {value.dtype for file in files for value in file.values()} == {torch.float32}


@each_mode
@settings(max_examples=10)
@given(rows=st.integers(1, 40), columns=st.integers(2, 700))
def test_every_constant_is_counted(kind: Quantize, rows: int, columns: int) -> None:
    """Sizes that blocks do not divide, against what the libraries themselves store."""
    layer = nn.Linear(columns, rows, dtype=torch.bfloat16)
    held = Precision(dtype=torch.bfloat16, quantize=kind)
    foretold = weights_bytes(nn.Sequential(layer), held)
    if LIBRARY[kind] == "torchao":
        from torchao.quantization import quantize_

        whole = nn.Sequential(layer)
        quantize_(whole, precision_module._config(held, of_transformers=False).quant_type)
    else:
        import bitsandbytes as bnb

        small = (
            bnb.nn.Linear4bit(columns, rows, quant_type="nf4", compute_dtype=torch.bfloat16)
            if kind == "nf4"
            else bnb.nn.Linear8bitLt(columns, rows, has_fp16_weights=False)
        )
        small.load_state_dict(layer.state_dict())
        whole = nn.Sequential(small.to(torch.bfloat16).to("cpu"))
    assert stored(whole) == foretold


@each_mode
def test_flux_and_its_text_encoder_are_quantized_and_its_vae_is_not(
    flux: Path, kind: Quantize
) -> None:
    held = Precision(dtype=torch.bfloat16, quantize=kind, text=True)
    checkpoint = Checkpoint(path=str(flux))
    plain = load_pipeline(
        FluxPipeline, checkpoint, device=CPU, precision=replace(held, quantize="none", text=False)
    )
    with refusals_lifted():
        small = load_pipeline(FluxPipeline, checkpoint, device=CPU, precision=held)
    for part in ("transformer", "text_encoder_2"):
        wanted = weights_bytes(getattr(plain, part), held)
        assert stored(getattr(small, part)) == wanted != stored(getattr(plain, part)), part
    assert stored(small.transformer) < stored(plain.transformer)
    for part in ("vae", "text_encoder"):
        assert stored(getattr(small, part)) == stored(getattr(plain, part)), part
    assert 0 < error(draw(small), draw(plain)) < ERROR[kind]


@pytest.mark.parametrize("kind", [needs("int8wo")])
def test_the_flux_generator_says_in_its_name_how_it_is_quantized(
    flux: Path, kind: Quantize
) -> None:
    own = FluxSettings(
        checkpoint=Checkpoint(path=str(flux)), device="cpu", dtype="bfloat16", size=16, steps=1,
        guidance_scale=1.0, true_cfg_scale=1.0, max_sequence_length=8, quantize=kind,
    )  # fmt: skip
    generator = FluxGenerator(own)
    assert generator.name == f"{FluxGenerator(replace(own, quantize='none')).name} {kind}"
    assert generator.pictures(["a red mug"], [1])[0].shape == (16, 16, 3)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [needs(kind) for kind in MODES])
def test_on_a_gpu_the_real_path_predicts_nearly_the_same(sdxl: Path, kind: Quantize) -> None:
    checkpoint = Checkpoint(path=str(sdxl))
    held = Precision(dtype=torch.bfloat16, quantize=kind)
    plain = InpaintBackbone.load(checkpoint, device=CUDA, precision=replace(held, quantize="none"))
    small = InpaintBackbone.load(checkpoint, device=CUDA, precision=held)
    assert stored(small.unet) == weights_bytes(plain.unet, held)
    assert error(guess(small), guess(plain)) < ERROR[kind]
