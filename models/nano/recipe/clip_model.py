"""The CLIP network of the recipe: its shape, its two encoders, its loss."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from . import clip_data

MEAN = STD = (0.5, 0.5, 0.5)
PATCH = 8


def to_pixels(images_NHWC: np.ndarray) -> Tensor:
    """uint8 pictures as float [N, 3, H, W] in -1..1, as the saved processor gives them."""
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).float() / 127.5 - 1


def make_model(
    tokenizer: CLIPTokenizer, *, width: int, layers: int, text_layers: int, heads: int
) -> CLIPModel:
    """A CLIPModel with random weights; both towers share width and heads."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": heads,
        # The exact GELU is one fused kernel; CLIP's "quick" one is three, and slower on CPUs.
        "hidden_act": "gelu",
    }
    text = {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": text_layers,
        "max_position_embeddings": 77,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "num_hidden_layers": layers,
        "image_size": clip_data.SIZE,
        "patch_size": PATCH,
    }
    return CLIPModel(
        CLIPConfig(
            text_config=shape | text,
            vision_config=shape | vision,
            projection_dim=width,
        )
    )


def encode_images(model: CLIPModel, pixels_N3HW: Tensor, kept: Tensor | None = None) -> Tensor:
    """Return unit embeddings [N, D], seeing only the patches `kept` (indices), if given."""
    vision = model.vision_model
    tokens = vision.embeddings(pixels_N3HW)
    if kept is not None:
        tokens = torch.cat([tokens[:, :1], tokens[:, 1:][:, kept]], dim=1)
    hidden = vision.encoder(inputs_embeds=vision.pre_layrnorm(tokens)).last_hidden_state
    return normalize(model.visual_projection(vision.post_layernorm(hidden[:, 0])), dim=-1)


def encode_texts(model: CLIPModel, ids_NT: Tensor) -> Tensor:
    """Return unit embeddings [N, D]; no mask, since attention is causal and pads come last."""
    return normalize(model.get_text_features(input_ids=ids_NT).pooler_output, dim=-1)


def contrastive_loss(images_ND: Tensor, texts_ND: Tensor, same: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; texts with equal numbers in `same` [N] are equal and all positive."""
    logits = scale * images_ND @ texts_ND.T
    positive = (same[:, None] == same[None, :]).float()
    target = positive / positive.sum(dim=1, keepdim=True)
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2
