"""Proves that a quantized base paints nearly as before, takes the bytes that are foretold, lets an
adapter learn on it and nothing else, and that offload changes no result.

Needs no weights: small random checkpoints of the real classes. bitsandbytes and torchao are
optional, and so are their tests. diffusers refuses bitsandbytes without a GPU although it has CPU
kernels; that refusal is lifted here, so that the rest of the real path runs on a CPU.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, UNet2DConditionModel
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
    offload,
    require,
    require_trainable,
    weights_bytes,
)
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods import Placement, Request
from insitu.methods.dreammix import DreamMix, Settings
from insitu.params import Checkpoint
from insitu.synthesis.generators import FluxGenerator, FluxSettings

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHOD = Settings(
    rank=2, targets=("to_k", "to_v", "to_out.0"), inside=1.0, outside=1.0, beta=1.0,
    steps=2, guidance_scale=2.0, context=0.3,
)  # fmt: skip
# Relative error of a forward pass that a format may cost here: a little above what was measured.
ERROR = {"int8": 0.02, "int8wo": 0.02, "fp8": 0.03, "nf4": 0.08}
MODES: tuple[Quantize, ...] = ("int8wo", "fp8", "nf4", "int8")


def needs(kind: Quantize) -> Any:
    """The mode as a test's parameter, skipped with its reason without its library."""
    library = LIBRARY[kind]
    missing = importlib.util.find_spec(library) is None
    return pytest.param(kind, marks=pytest.mark.skipif(missing, reason=f"needs {library}"))


each_mode = pytest.mark.parametrize("kind", [needs(kind) for kind in MODES])


@pytest.fixture(scope="module")
def sdxl(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a U-Net whose layers are large beside their constants."""
    folder = tmp_path_factory.mktemp("wide") / "sdxl"
    shutil.copytree(checkpoints["sdxl_inpaint"], folder)
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(folder, subfolder="unet")
    wide = {"block_out_channels": (32, 64), "norm_num_groups": 8, "attention_head_dim": 4}
    UNet2DConditionModel.from_config(config | wide).save_pretrained(folder / "unet")
    return folder


@pytest.fixture(scope="module")
def flux(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny pipeline with a wider transformer."""
    folder = tmp_path_factory.mktemp("wide") / "flux"
    shutil.copytree(checkpoints["flux"], folder)
    torch.manual_seed(0)
    config = FluxTransformer2DModel.load_config(folder, subfolder="transformer")
    wide = {"num_attention_heads": 4}
    FluxTransformer2DModel.from_config(config | wide).save_pretrained(folder / "transformer")
    return folder


@contextlib.contextmanager
def refusals_lifted() -> Iterator[None]:
    """Without our refusals, and diffusers' of bitsandbytes on a CPU."""
    from diffusers.quantizers.bitsandbytes import bnb_quantizer as diffusers_own

    with pytest.MonkeyPatch.context() as patch:
        for name in ("BnB4BitDiffusersQuantizer", "BnB8BitDiffusersQuantizer"):
            quantizer = getattr(diffusers_own, name)
            patch.setattr(quantizer, "validate_environment", lambda *_, **__: None)
            patch.setattr(quantizer, "update_device_map", lambda *_: {"": CPU})
        patch.setattr(precision_module, "require", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def load(sdxl: Path) -> Callable[[Quantize], tuple[InpaintBackbone, Precision]]:
    """A backbone of the wide U-Net, quantized so, in bfloat16."""

    def load_one(kind: Quantize) -> tuple[InpaintBackbone, Precision]:
        held = Precision(dtype=torch.bfloat16, quantize=kind)
        checkpoint = Checkpoint(path=str(sdxl))
        with refusals_lifted():
            backbone = InpaintBackbone.load(checkpoint, device=CPU, precision=held)
        for layer in backbone.unet.modules():
            # Some processors would repack the weights when they first compute, for inference only.
            if hasattr(layer, "support_avx512bf16_for_cpu"):
                layer.support_avx512bf16_for_cpu = False
        return backbone, held

    return load_one


def stored(model: nn.Module) -> int:
    """Bytes of all distinct storages that a model holds, those of quantization constants too."""
    found: dict[int, int] = {}

    def visit(tensor: torch.Tensor) -> None:
        if type(tensor).__module__.startswith("torchao"):
            for name in tensor.__tensor_flatten__()[0]:
                visit(getattr(tensor, name))
            return
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        for holder in (getattr(tensor, "quant_state", None), tensor):
            for part in ("absmax", "code", "offset", "state2", "SCB", "CB"):
                value = getattr(holder, part, None) if holder is not None else None
                nested = [value] if isinstance(value, torch.Tensor) else []
                if part == "state2" and value is not None:
                    nested = [value.absmax, value.code]
                for one in nested:
                    found[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()

    for tensor in (*model.parameters(), *model.buffers()):
        visit(tensor)
    return sum(found.values())


@torch.no_grad()
def guess(backbone: InpaintBackbone) -> torch.Tensor:
    """What the U-Net predicts of one fixed input."""
    generator = torch.Generator().manual_seed(0)
    z_t = torch.randn(2, *backbone.latent_shape, generator=generator).to(backbone.device)
    text = backbone.encode_text(("a red mug", "a blue cup"))
    t = torch.tensor([100, 800], device=backbone.device)
    return backbone.predict(z_t, t, torch.ones_like(z_t[:, :1]), z_t.flip(0), text)


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())


def tell(backbone: InpaintBackbone) -> dict[str, torch.Tensor]:
    """What DreamMix is told of two random pictures."""
    generator = torch.Generator().manual_seed(1)
    z_0 = torch.randn(2, *backbone.latent_shape, generator=generator).to(backbone.device)
    text = backbone.encode_text(("a sks mug", "a sks mug"))
    return {
        "z_0": z_0, "mask": torch.ones_like(z_0[:, :1]), "holed": z_0.flip(0),
        "regular": torch.tensor([False, True], device=z_0.device),
        "text.context": text.context, "text.pooled": text.pooled,
    }  # fmt: skip


def request() -> Request:
    photo = np.full((40, 40, 3), 90, np.uint8)
    return Request(
        image=photo,
        placements=(Placement(box_xyxy01=(0.2, 0.2, 0.8, 0.8)),),
        prompt="a red mug",
        seed=1,
    )


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


def draw(pipeline: Any) -> torch.Tensor:
    """Latents of one picture after two steps."""
    return pipeline(
        "a red mug", height=16, width=16, num_inference_steps=2, max_sequence_length=8,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip


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
        guidance_scale=1.0, max_sequence_length=8, quantize=kind,
    )  # fmt: skip
    generator = FluxGenerator(own)
    assert generator.name == f"{FluxGenerator(replace(own, quantize='none')).name} {kind}"
    assert generator.pictures(["a red mug"], [1])[0].shape == (16, 16, 3)


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


@pytest.mark.parametrize(
    ("held", "device", "why"),
    [
        (Precision(quantize="nf4"), CPU, "on a GPU only"),
        (Precision(quantize="int8"), CPU, "on a GPU only"),
        (Precision(dtype=torch.float16), CPU, "float16 arithmetic"),
        (Precision(offload="leaf"), CPU, "would save nothing"),
        (Precision(quantize="nf4", offload="block"), CUDA, "offload moves only one"),
        (Precision(text=True), CUDA, "nothing to do"),
    ],
)
def test_what_cannot_be_had_is_refused_before_loading(
    held: Precision, device: torch.device, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint is missing as well, and its refusal would come first if it were opened."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    with pytest.raises(UserError, match=why):
        load_pipeline(
            FluxPipeline, Checkpoint(path="/no/such/folder"), device=device, precision=held
        )


@pytest.mark.parametrize("kind", MODES)
def test_a_missing_library_is_named_with_the_extra_that_brings_it(
    kind: Quantize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        require(Precision(quantize=kind), CUDA)
    assert LIBRARY[kind] in caught.value.why and "insitu[quantize]" in caught.value.todo


def test_an_inpainting_base_in_float16_is_refused() -> None:
    with pytest.raises(UserError, match="overflows"):
        InpaintBackbone.load(
            Checkpoint(path="/no/such/folder"),
            device=CUDA,
            precision=Precision(dtype=torch.float16),
        )


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [needs(kind) for kind in MODES])
def test_on_a_gpu_the_real_path_predicts_nearly_the_same(sdxl: Path, kind: Quantize) -> None:
    checkpoint = Checkpoint(path=str(sdxl))
    held = Precision(dtype=torch.bfloat16, quantize=kind)
    plain = InpaintBackbone.load(checkpoint, device=CUDA, precision=replace(held, quantize="none"))
    small = InpaintBackbone.load(checkpoint, device=CUDA, precision=held)
    assert stored(small.unet) == weights_bytes(plain.unet, held)
    assert error(guess(small), guess(plain)) < ERROR[kind]


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
