"""Tiny random checkpoints of the real classes, saved as any other."""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from ruamel.yaml import YAML
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    OwlViTConfig,
    OwlViTForObjectDetection,
    OwlViTProcessor,
    T5Config,
    T5EncoderModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.owlvit.image_processing_pil_owlvit import OwlViTImageProcessorPil

from insitu import world
from insitu.perception.clip import AestheticHead
from recipe.tokenizers import clip_tokenizer, t5_tokenizer

SIDE = {"height": 16, "width": 16}
SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
PIXELS = {"image_size": 16, "patch_size": 8}
FIVE_POINTS = [[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]


def save(root: Path) -> dict[str, Path]:
    """A folder for each model of params.yaml, by its name there; none has a card."""
    ways = {
        "flux": _flux,
        "inpaint": _inpaint,
        "clip": _clip,
        "dino": _dino,
        "detector": _detector,
        "face": _face,
    }
    for name, save_one in ways.items():
        torch.manual_seed(0)
        save_one(root / name)
    return {name: root / name for name in ways}


def write_params(file: Path, checkpoints: dict[str, Path], **registry: str) -> None:
    """The shipped settings on tiny checkpoints, with as little of everything as goes."""
    shipped = Path(__file__).parents[1] / "params.yaml"
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(shipped.read_text())
    for name, path in checkpoints.items():
        content["models"][name]["path"] = str(path)
    content["models"]["flux"] |= {"size": 16, "max_sequence_length": 16}
    content["device"] = "cpu"
    content["subjects"] |= {"drawn": 1, "photos": 2, "size": 64}
    content["tune"] |= {
        "steps": 3, "batch": 2, "validate_every": 2, "save_every": 2, "workers": 1,
    }  # fmt: skip
    content["regularization"]["images"] = 2
    content["tune"]["dreammix"] |= {"steps": 1, "rank": 2}
    content["lar_gen"] |= {"steps": 1, "width": 16, "head": 8, "tokens": 2}
    content["evaluate"] |= {"scenes": 2, "seeds": 1, "size": 64}
    content["registry"] |= registry
    YAML().dump(content, file)


def _vae(factor: int, channels: int) -> AutoencoderKL:
    depth = factor.bit_length()
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        block_out_channels=(4,) * depth,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.0,
        scaling_factor=1.0,
    )


def _text_config(words: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=words, projection_dim=16, bos_token_id=words - 2, eos_token_id=words - 1,
        pad_token_id=words - 1, **SHAPE,
    )  # fmt: skip


def _flux(folder: Path) -> None:
    words = world.vocabulary()
    clip = clip_tokenizer(words, folder / "tokenizer")
    t5 = t5_tokenizer(words, folder / "tokenizer_2")
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=1, joint_attention_dim=16, pooled_projection_dim=16,
        guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    t5_config = T5Config(
        vocab_size=len(t5), d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1,
        is_encoder_decoder=False, use_cache=False, tie_word_embeddings=False,
    )  # fmt: skip
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4, 16),
        text_encoder=CLIPTextModel(_text_config(len(clip))),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(t5_config),
        tokenizer_2=t5,
        transformer=transformer,
    ).save_pretrained(folder)


def _inpaint(folder: Path) -> None:
    inpainting(folder, family="sdxl", channels=9)


def inpainting(folder: Path, *, family: str, channels: int, prediction: str = "epsilon") -> None:
    """A pipeline of SDXL's or SD1.5's parts, whose U-Net takes 9 channels or, for text, 4."""
    tokenizer = clip_tokenizer(world.vocabulary(), folder / "tokenizer")
    large = family == "sdxl"
    told: dict[str, Any] = {"cross_attention_dim": 16}
    if large:
        told = {
            "cross_attention_dim": 32, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 4, "projection_class_embeddings_input_dim": 16 + 6 * 4,
        }  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=channels, out_channels=4, block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=2, attention_head_dim=2, **told,
    )  # fmt: skip
    parts = {
        "scheduler": EulerDiscreteScheduler(
            prediction_type=prediction, timestep_spacing="leading", steps_offset=1
        ),
        "vae": _vae(2, 4), "text_encoder": CLIPTextModel(_text_config(len(tokenizer))),
        "tokenizer": tokenizer, "unet": unet,
    }  # fmt: skip
    if large:
        second = CLIPTextModelWithProjection(_text_config(len(tokenizer)))
        StableDiffusionXLInpaintPipeline(
            **parts, text_encoder_2=second, tokenizer_2=tokenizer,
            force_zeros_for_empty_prompt=False, add_watermarker=False,
        ).save_pretrained(folder)  # fmt: skip
    else:
        StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        ).save_pretrained(folder)


def _clip(folder: Path) -> None:
    tokenizer = clip_tokenizer(world.vocabulary(), folder)
    text = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config=SHAPE | text, vision_config=SHAPE | PIXELS, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE, do_center_crop=False)
    CLIPProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)
    AestheticHead(16, hidden=4).save(folder)


def _dino(folder: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **PIXELS)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(size={"shortest_edge": 16}, crop_size=SIDE).save_pretrained(folder)


def _detector(folder: Path) -> None:
    tokenizer = clip_tokenizer(world.vocabulary(), folder, 16)
    text = {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    config = OwlViTConfig(text_config=SHAPE | text, vision_config=SHAPE | PIXELS, projection_dim=16)
    OwlViTForObjectDetection(config).save_pretrained(folder)
    processor = OwlViTImageProcessorPil(size=SIDE, crop_size=SIDE)
    OwlViTProcessor(image_processor=processor, tokenizer=tokenizer).save_pretrained(folder)


def _face(folder: Path) -> None:
    parts = {
        "embedder": ViTConfig(**SHAPE, **PIXELS, num_labels=8, template_xy01=FIVE_POINTS),
        "landmarks": ViTConfig(**SHAPE, **PIXELS, num_labels=10, box_margin=0.2),
    }
    for name, config in parts.items():
        ViTForImageClassification(config).save_pretrained(folder / name)
        ViTImageProcessor(size=SIDE).save_pretrained(folder / name)
