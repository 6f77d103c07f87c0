"""Proves that offload changes no result, takes adapters along, and is refused where something
learns. Needs no weights: small random checkpoints; a GPU for what really moves.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from peft import LoraConfig
from torch import nn

from insitu.backbones.adapters import attach
from insitu.backbones.precision import (
    Precision,
    Quantize,
    load_pipeline,
    offload,
    require_trainable,
)
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods.dreammix import DreamMix
from insitu.params import Checkpoint
from tests.backbones.held import (
    CPU,
    CUDA,
    METHOD,
    draw,
    flux,
    guess,
    load,
    needs,
    refusals_lifted,
    request,
    sdxl,
    tell,
)

__all__ = ["flux", "load", "sdxl"]


@pytest.mark.parametrize("how", ["block", "leaf"])
def test_offload_changes_nothing_and_takes_adapters_along(sdxl: Path, how: Any) -> None:
    """To the device that it comes from: moving is left out, what is hooked and when is not."""
    backbone = InpaintBackbone.load(Checkpoint(path=str(sdxl)), device=CPU)
    wanted = guess(backbone)
    offload(backbone.unet, CPU, how)
    assert torch.equal(guess(backbone), wanted)
    attach(backbone.unet, LoraConfig(r=2, target_modules=["to_k"]), "dreammix")
    assert torch.equal(guess(backbone), wanted)
    lora = [m.lora_A["dreammix"] for m in backbone.unet.modules() if hasattr(m, "lora_A")]
    assert all(hasattr(layer, "_diffusers_hook") for layer in lora) == (how == "leaf")
    DreamMix(METHOD).detach(backbone)
    assert torch.equal(guess(backbone), wanted)


def test_flux_is_offloaded_with_its_text_encoder_and_the_rest_is_not(flux: Path) -> None:
    checkpoint, held = Checkpoint(path=str(flux)), Precision(offload="block", text=True)
    plain = load_pipeline(FluxPipeline, checkpoint, device=CPU, precision=Precision())
    with refusals_lifted():
        moving = load_pipeline(FluxPipeline, checkpoint, device=CPU, precision=held)
    blocks = [*moving.transformer.transformer_blocks, *moving.transformer.single_transformer_blocks]
    layers = [m for m in moving.text_encoder_2.modules() if isinstance(m, nn.Linear)]
    assert all(hasattr(module, "_diffusers_hook") for module in blocks + layers)
    for part in (moving.vae, moving.text_encoder):
        assert not any(hasattr(module, "_diffusers_hook") for module in part.modules())
    assert np.array_equal(*(draw(pipeline) for pipeline in (plain, moving)))


def test_training_on_an_offloaded_base_is_refused(sdxl: Path) -> None:
    backbone = InpaintBackbone.load(Checkpoint(path=str(sdxl)), device=CPU)
    backbone.precision = Precision(offload="leaf")
    guess(backbone)
    method = DreamMix(METHOD)
    method.attach(backbone)
    told = tell(backbone)
    with pytest.raises(UserError, match="have left the device again when gradients need them"):
        method.loss(backbone, told, torch.zeros_like(told["z_0"]), torch.tensor([0.3, 0.6]))
    require_trainable(Precision(quantize="nf4"))


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["block", "leaf"])
@pytest.mark.parametrize("kind", ["none", needs("int8wo"), needs("fp8")])
def test_on_a_gpu_offload_paints_the_same_with_an_adapter(
    sdxl: Path, kind: Quantize, how: Any
) -> None:
    checkpoint = Checkpoint(path=str(sdxl))
    painted, method = [], DreamMix(METHOD)
    for offloaded in ("none", how):
        held = Precision(dtype=torch.bfloat16, quantize=kind, offload=offloaded)
        backbone = InpaintBackbone.load(checkpoint, device=CUDA, precision=held)
        attach(backbone.unet, LoraConfig(r=2, target_modules=["to_k"]), "dreammix")
        painted.append(method.paint(backbone, [request()])[0])
        if offloaded != "none":
            assert backbone.unet.device.type == "cpu"
    assert np.array_equal(*painted)
