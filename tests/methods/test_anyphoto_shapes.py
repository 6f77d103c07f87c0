"""Proves that AnyPhoto fits FLUX.1-dev: what learns is counted on its real layers, and condition,
loss and painting run there by shape alone, at 512 pixels with four faces.

Needs no GPU and no weights.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from peft import LoraConfig
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
)

from insitu import params
from insitu.backbones import adapters
from insitu.backbones.branches import of_conditions
from insitu.backbones.flux import FluxBackbone
from insitu.methods.anyphoto.faces import Modulation
from insitu.methods.anyphoto.method import TARGETS
from insitu.params import FluxCheckpoint
from insitu.training.memory.rehearsal import Rehearsal
from insitu.training.optimizers import Optimization
from tests.methods.anyphoto_parts import backbone_of, method_of, request

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")
OPTIMIZER = Optimization(name="adamw", lr=1e-4)


@pytest.mark.parametrize("targets", ["attention", "image"])
def test_counts_on_flux_dev(targets: str) -> None:
    """r (in + out) for each layer, at rank 64; the modulation of ArcFace's 512 numbers."""
    with torch.device("meta"):
        dev = FluxTransformer2DModel(guidance_embeds=True)
        config = LoraConfig(
            r=64, lora_alpha=64, target_modules=of_conditions(dev, TARGETS[targets])
        )
        adapters.attach(dev, config, "anyphoto")
        mlp = Modulation(512, dev.inner_dim)
    d = 3072
    attention, feed = 2 * d, 5 * d
    doubles, singles = 4 * attention, 3 * attention
    idle = attention
    if targets == "image":
        doubles += 7 * d + 2 * feed  # the norm's six parts, both feed-forward layers
        singles += 4 * d + feed + 6 * d
        idle += feed + 6 * d
    embedder = 64 + d if targets == "image" else 0
    expected = 64 * (19 * doubles + 38 * singles - idle + embedder)
    assert adapters.count(dev, "anyphoto") == expected
    assert sum(p.numel() for p in mlp.parameters()) == 512 * d + d * d + 2 * d


def dev(tokenizers: Path, size: int) -> FluxBackbone:
    """FLUX.1-dev's shapes."""
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=16,
            use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1159,
            scaling_factor=0.3611,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
        ),
        tokenizer=AutoTokenizer.from_pretrained(tokenizers / "tokenizer"),
        text_encoder_2=T5EncoderModel(
            T5Config(d_model=4096, d_kv=64, d_ff=10240, num_heads=64, num_layers=2,
                     feed_forward_proj="gated-gelu", is_encoder_decoder=False,
                     tie_word_embeddings=False)
        ),
        tokenizer_2=AutoTokenizer.from_pretrained(tokenizers / "tokenizer_2"),
        transformer=FluxTransformer2DModel(guidance_embeds=True),
    ).to(torch.bfloat16)  # fmt: skip
    checkpoint = FluxCheckpoint(path=str(tokenizers), size=size, max_sequence_length=512)
    return FluxBackbone(pipeline, checkpoint=checkpoint, digest="")


def test_on_the_tiny_checkpoint_it_is_rehearsed_and_then_still_works(
    checkpoints: dict[str, Path],
) -> None:
    """What was loaded without numbers is not what the real run gets."""
    method = method_of(checkpoints, PARAMS, faces=2, variants=1)
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=64, max_sequence_length=16)
    rehearsed = Rehearsal(
        lambda: FluxBackbone.empty(checkpoint), method, optimizer=OPTIMIZER, average=True
    )
    told: Any = rehearsed.example
    assert told["tokens"].shape == (1, 2, 2, 49, 64)
    assert sum(rehearsed.training(2, False, False).values()) > 0
    assert sum(rehearsed.painting(1).values()) > 0
    assert method.paint(backbone_of(checkpoints), [request()])[0].any()


@pytest.mark.slow
def test_flux_dev_is_run_by_shape(checkpoints: dict[str, Path]) -> None:
    method = method_of(checkpoints, PARAMS, faces=4, rank=64, patch=112, variants=1)
    rehearsed = Rehearsal(
        lambda: dev(checkpoints["flux"], 512), method, optimizer=OPTIMIZER, average=False
    )
    assert rehearsed.example["tokens"].shape == (1, 4, 2, 25 * 25, 64)
    assert rehearsed.training(1, False, True)
    assert rehearsed.painting(1)
