"""Proves that a picture as a prompt adds what diffusers' IP-Adapter for FLUX adds, read from the
same file, in one pass and in whole pictures; that a scale of 0 adds nothing, and that what does not
fit is refused.

Needs no GPU; a random tiny transformer and the tiny random pipeline of `tests/tiny.py`.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from insitu.backbones import image_prompt
from insitu.backbones.branches import Branch, Inputs, Layout, everything
from insitu.backbones.flux import FluxBackbone, pack, positions, unpack
from insitu.backbones.image_prompt import NAME, ImagePrompt
from insitu.errors import UserError
from insitu.params import FluxCheckpoint
from tests.backbones.branching import WORDS, grid, inputs, lora, random, transformer

EMBEDDING, TOKENS, SIDE = 16, 4, 16


def write(folder: Path, *, features: int, width: int, blocks: int) -> Path:
    """A random adapter under the public names, with a tiny encoder."""
    shapes = {
        "ip_adapter_proj_model.proj.weight": (TOKENS * features, EMBEDDING),
        "ip_adapter_proj_model.proj.bias": (TOKENS * features,),
        "ip_adapter_proj_model.norm.weight": (features,),
        "ip_adapter_proj_model.norm.bias": (features,),
    }
    for k in range(blocks):
        for part in "kv":
            stem = f"double_blocks.{k}.processor.ip_adapter_double_stream_{part}_proj"
            shapes |= {f"{stem}.weight": (width, features), f"{stem}.bias": (width,)}
    folder.mkdir(parents=True)
    weights = {name: random(*shape, seed=k) for k, (name, shape) in enumerate(shapes.items())}
    save_file(weights, folder / "ip_adapter.safetensors")
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        image_size=SIDE, patch_size=8, projection_dim=EMBEDDING,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder / "image_encoder")
    return folder


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (20, 28, 3), np.uint8)


def plain_layout() -> Layout:
    branches = [
        Branch(name="text", ids=torch.zeros(3, 3), space="text", adapters=("one",)),
        Branch(name="image", ids=grid(2, 3), adapters=("one",)),
    ]
    return Layout(branches, everything(("text", "image")))


@torch.no_grad()
@pytest.mark.parametrize("adapted", [False, True])
def test_one_pass_is_diffusers(tmp_path: Path, adapted: bool) -> None:
    folder = write(tmp_path / "prompt", features=WORDS, width=32, blocks=2)
    model, theirs = transformer(double=2), transformer(double=2)
    if adapted:
        lora(model, "one")
        lora(theirs, "one")
    prompt = ImagePrompt.load(folder, model, scale=0.7)
    prompt.put(model)
    tokens = prompt.tokens([picture(), picture(1)])
    assert tokens.shape == (2, TOKENS, WORDS)

    projection, layers = image_prompt.sorted_by_part(load_file(folder / "ip_adapter.safetensors"))
    theirs._load_ip_adapter_weights({"image_proj": projection, "ip_adapter": layers})
    for processor in theirs.attn_processors.values():
        processor.scale = [0.7]
    processed = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE)
    pixels = processed([picture(), picture(1)], return_tensors="pt")["pixel_values"]
    layout = plain_layout()
    given = inputs(layout)

    def expected() -> Tensor:
        return theirs(
            hidden_states=given.tokens["image"], encoder_hidden_states=given.tokens["text"],
            pooled_projections=given.pooled, timestep=given.t, guidance=given.guidance,
            img_ids=layout["image"].ids, txt_ids=layout["text"].ids,
            joint_attention_kwargs={
                "ip_adapter_image_embeds": [prompt.encoder(pixels).image_embeds[:, None]]
            },
        ).sample  # fmt: skip

    def found(beside: dict[str, Tensor]) -> Tensor:
        told = Inputs(**{**vars(given), "beside": beside})
        return model(layout=layout, inputs=told)

    with_picture = found({NAME: tokens})
    torch.testing.assert_close(with_picture, expected(), rtol=0, atol=1e-5)
    without = found({})
    assert (with_picture - without).abs().max() > 1e-2
    for block in model.transformer_blocks:
        block.beside[NAME].scale = 0.0
    assert torch.equal(found({NAME: tokens}), without)
    image_prompt.remove(model)
    assert not any("beside" in name for name in model.state_dict())


@torch.no_grad()
def test_a_picture_is_added_to_the_outputs_tokens_only(tmp_path: Path) -> None:
    """After the first block; wherever the output lies in its stream."""
    folder = write(tmp_path / "prompt", features=WORDS, width=32, blocks=1)
    model = transformer(double=1, single=0)
    prompt = ImagePrompt.load(folder, model)
    prompt.put(model)
    tokens = prompt.tokens([picture()] * 2)
    after: list[Tensor] = []
    model.transformer_blocks[0].register_forward_hook(
        lambda block, given, made: after.append(torch.cat(made, 1))
    )
    names = ("text", "before", "image", "behind")
    branches = [
        Branch(name="text", ids=torch.zeros(3, 3), space="text"),
        Branch(name="before", ids=grid(2, 2, shift=3)), Branch(name="image", ids=grid(2, 3)),
        Branch(name="behind", ids=grid(1, 2, shift=6)),
    ]  # fmt: skip
    layout = Layout(branches, everything(names))
    given = inputs(layout)
    for beside in ({}, {NAME: tokens}):
        model(layout=layout, inputs=Inputs(**{**vars(given), "beside": beside}))
    moved = (after[1] - after[0]).abs().amax((0, 2)) > 0
    assert moved.tolist() == [False] * 7 + [True] * 6 + [False] * 2


@torch.no_grad()
def test_whole_pictures_are_diffusers(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = write(tmp_path / "prompt", features=16, width=16, blocks=1)
    encoder = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    processor = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SIDE)
    plain = FluxPipeline.from_pretrained(
        checkpoints["flux"], dtype=torch.float32, image_encoder=encoder,
        feature_extractor=processor,
    )  # fmt: skip
    plain.set_progress_bar_config(disable=True)
    plain.load_ip_adapter(str(folder), weight_name="ip_adapter.safetensors")
    expected = plain(
        "a red mug", height=16, width=16, num_inference_steps=3, guidance_scale=2.0,
        max_sequence_length=16, output_type="np", ip_adapter_image=picture(),
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip

    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=16, max_sequence_length=16)
    base = FluxBackbone.load(checkpoint, device=torch.device("cpu"))
    prompt = ImagePrompt.load(folder, base.transformer)
    prompt.put(base.transformer)
    tokens = prompt.tokens([picture()])
    text, noise = base.encode_text(("a red mug",)), base.noise([3], 16, 16)
    height, width = noise.shape[-2:]
    ids = {"text": torch.zeros(base.words, 3), "image": positions(height, width)}
    layout = Layout(
        [
            Branch(name="text", ids=ids["text"], space="text"),
            Branch(name="image", ids=ids["image"]),
        ],
        everything(("text", "image")),
    )

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        told = Inputs(
            tokens={"text": text.tokens, "image": pack(x)}, pooled=text.pooled, t=t,
            guidance=torch.full_like(t, 2.0), beside={NAME: tokens},
        )  # fmt: skip
        return unpack(base.transformer(layout=layout, inputs=told), height, width)

    (painted,) = base.pictures(base.sample(noise, velocity, steps=3))
    assert np.abs(painted.astype(int) - np.rint(expected * 255).astype(int)).max() <= 1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model = transformer(double=2)
    with pytest.raises(UserError, match=r"It has no ip_adapter\.safetensors"):
        ImagePrompt.load(tmp_path, model)
    fewer = write(tmp_path / "fewer", features=WORDS, width=32, blocks=1)
    with pytest.raises(UserError, match=r"Its 1\.to_k_ip\.bias is nothing"):
        ImagePrompt.load(fewer, model)
    wider = write(tmp_path / "wider", features=WORDS, width=48, blocks=2)
    with pytest.raises(UserError, match=r"to_k_ip\.bias is \(48,\), and this base takes \(32,\)"):
        ImagePrompt.load(wider, model)
    with pytest.raises(UserError, match="XLabs"):
        image_prompt.sorted_by_part({"unet.conv_in.weight": torch.zeros(1)})
    assert not any(hasattr(block, "beside") for block in model.transformer_blocks)
