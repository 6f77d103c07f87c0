"""How many bytes the weights of SDXL inpainting and FLUX.1-dev take in each mode of `Precision`.

Models of the published sizes are made on the meta device: nothing is downloaded and no memory is
taken. Figures are of weights and their constants, not of activations.

    python benchmarks/weights.py
"""

import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from insitu.backbones.precision import Precision, Quantize, quantized_layers, weights_bytes

MODES: tuple[Quantize, ...] = ("none", "int8", "int8wo", "fp8", "nf4")


def sdxl_unet() -> nn.Module:
    """As `unet/config.json` of stable-diffusion-xl-1.0-inpainting-0.1."""
    return UNet2DConditionModel(
        sample_size=128, in_channels=9, out_channels=4, block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2, attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
        transformer_layers_per_block=(1, 2, 10), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip


def sdxl_text() -> nn.Module:
    """As `text_encoder_2/config.json` of SDXL: OpenCLIP bigG's text half."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=1280, intermediate_size=5120, num_hidden_layers=32,
            num_attention_heads=20, projection_dim=1280, hidden_act="gelu",
        )
    )  # fmt: skip


def flux_transformer() -> nn.Module:
    """As `transformer/config.json` of FLUX.1-dev: diffusers' defaults, with guidance."""
    return FluxTransformer2DModel(guidance_embeds=True)


def flux_text() -> nn.Module:
    """As `text_encoder_2/config.json` of FLUX.1-dev: the encoder of T5 v1.1 XXL."""
    return T5EncoderModel(
        T5Config(
            d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64,
            feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False,
            tie_word_embeddings=False,
        )
    )  # fmt: skip


MODELS = {
    "SDXL inpainting U-Net": sdxl_unet,
    "its text encoder 2": sdxl_text,
    "FLUX.1-dev transformer": flux_transformer,
    "its text encoder 2 (T5)": flux_text,
}


def main() -> None:
    print(f"| model | parameters | in linear layers | {' | '.join(MODES)} |")
    print("|---" * (3 + len(MODES)) + "|")
    for name, make in MODELS.items():
        with torch.device("meta"):
            model = make()
        count = sum(parameter.numel() for parameter in model.parameters())
        linear = sum(part.weight.numel() for _, part in quantized_layers(model, "nf4"))
        sizes = [
            weights_bytes(model, Precision(dtype=torch.bfloat16, quantize=mode)) / 1e9
            for mode in MODES
        ]
        row = " | ".join(f"{size:.3f}" for size in sizes)
        print(f"| {name} | {count / 1e6:.1f} M | {linear / count:.1%} | {row} |")
    print("\nGB of 10^9 bytes; `none` is bfloat16, and so is what no mode quantizes.")


if __name__ == "__main__":
    main()
