"""What caching the encoders saves at the sizes of SDXL and FLUX: an estimate, by operations alone.

Models of the published sizes are made on the meta device, where nothing is computed: torch counts
the floating-point operations (FLOPs) of one example's encoders and of its training step. Time is
another matter: parts differ in how much of a device they keep busy.

    python -m benchmarks.training_sizes
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from peft import LoraConfig
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from benchmarks.weights import flux_text, flux_transformer, sdxl_text, sdxl_unet
from insitu.params import load
from pipelines import _step

RANK = 4
"""Of the LoRA, as the paper has it for SDXL."""


def flops(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e12


def step_flops(model: nn.Module, targets: Sequence[str], **inputs: Any) -> float:
    """Of a forward and a backward pass that ends at the LoRA's matrices."""
    model.requires_grad_(False)
    lora: Any = model
    lora.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(targets)))
    return flops(lambda: model(**inputs, return_dict=False)[0].sum().backward())


def main(side: int = 1024) -> None:
    """TFLOPs of one example of DreamMix on SDXL, and of a plain LoRA on FLUX.1-dev."""
    _step.quiet()
    targets, latent = load().tune.dreammix.targets, side // 8
    with torch.device("meta"):
        clip = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                num_attention_heads=12,
            )
        )  # fmt: skip
        ids, long_ids = (torch.zeros(1, n, dtype=torch.long) for n in (77, 512))
        picture = torch.zeros(1, 3, side, side)
        vae, vae_flux = _vae(4), _vae(16)
        small = flops(lambda: clip(ids))
        tokens = (latent // 2) ** 2
        rows = {
            "SDXL inpainting, DreamMix": (
                2 * flops(lambda: vae.encode(picture)),  # the picture, and the holed one
                small + flops(lambda: sdxl_text()(ids)),
                step_flops(
                    sdxl_unet(), targets,
                    sample=torch.zeros(1, 9, latent, latent), timestep=torch.zeros(1),
                    encoder_hidden_states=torch.zeros(1, 77, 2048),
                    added_cond_kwargs={
                        "text_embeds": torch.zeros(1, 1280), "time_ids": torch.zeros(1, 6),
                    },
                ),
            ),
            "FLUX.1-dev, one picture": (
                flops(lambda: vae_flux.encode(picture)),
                small + flops(lambda: flux_text()(long_ids)),
                step_flops(
                    flux_transformer(), targets,
                    hidden_states=torch.zeros(1, tokens, 64), timestep=torch.zeros(1),
                    encoder_hidden_states=torch.zeros(1, 512, 4096),
                    pooled_projections=torch.zeros(1, 768), guidance=torch.zeros(1),
                    img_ids=torch.zeros(tokens, 3), txt_ids=torch.zeros(512, 3),
                ),
            ),
        }  # fmt: skip
    print(
        f"an estimate: TFLOPs of one example at {side} x {side}, LoRA of rank {RANK}; time differs"
    )
    print("| base | pictures | texts | forward and backward | plain loop / cached |")
    print("|---" * 5 + "|")
    for name, (pictures, texts, step) in rows.items():
        gain = (pictures + texts + step) / step
        print(f"| {name} | {pictures:.2f} | {texts:.2f} | {step:.2f} | {gain:.2f} |")


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=channels,
    )  # fmt: skip


if __name__ == "__main__":
    main()
