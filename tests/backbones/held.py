"""Small random pipelines of the real classes, held in fewer bits or elsewhere, and what is asked of
them.

bitsandbytes and torchao are optional, and so are their tests. diffusers refuses bitsandbytes
without a GPU although it has CPU kernels; that refusal is lifted here, so that the rest of the real
path runs on a CPU.
"""

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from torch import nn

from insitu.backbones import precision as precision_module
from insitu.backbones.precision import (
    LIBRARY,
    Precision,
    Quantize,
)
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import Placement, Request
from insitu.methods.dreammix import Settings
from insitu.params import Checkpoint

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
METHOD = Settings(
    rank=2, targets=("to_k", "to_v", "to_out.0"), inside=1.0, outside=1.0, beta=1.0,
    local=1.0, enlarge=0.0, background="original", substitute="tokens",
    scheduler="own", steps=2, guidance_scale=2.0, rescale=0.0, context=0.3,
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
    shutil.copytree(checkpoints["inpaint"], folder)
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
        if importlib.util.find_spec("bitsandbytes") is not None:
            # Some processors would repack the weights when they first compute, for inference only,
            # and not those of narrow layers.
            modules = importlib.import_module("bitsandbytes.nn.modules")
            patch.setattr(modules, "has_avx512bf16", lambda: False)
        yield


@pytest.fixture(scope="module")
def load(sdxl: Path) -> Callable[[Quantize], tuple[InpaintBackbone, Precision]]:
    """A backbone of the wide U-Net, quantized so, in bfloat16."""

    def load_one(kind: Quantize) -> tuple[InpaintBackbone, Precision]:
        held = Precision(dtype=torch.bfloat16, quantize=kind)
        checkpoint = Checkpoint(path=str(sdxl))
        with refusals_lifted():
            backbone = InpaintBackbone.load(checkpoint, device=CPU, precision=held)
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


def draw(pipeline: Any) -> torch.Tensor:
    """Latents of one picture after two steps."""
    return pipeline(
        "a red mug", height=16, width=16, num_inference_steps=2, max_sequence_length=8,
        generator=torch.Generator().manual_seed(0), output_type="latent",
    ).images  # fmt: skip
