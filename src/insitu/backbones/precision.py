"""How the frozen part of a pipeline is held in memory: number format, quantization, offload.

A frozen base learns nothing, so its linear layers may be stored in fewer bits. `nf4` is QLoRA's
NormalFloat with double quantization (Dettmers et al. 2023, arXiv:2305.14314) and `int8` is LLM.int8
(Dettmers et al. 2022, arXiv:2208.07339), both by bitsandbytes; `int8wo` and `fp8` are torchao's
weight-only formats, one scale a row. Only the weights of linear layers change: convolutions, norms,
embeddings and biases stay in `dtype`, and so does all arithmetic but that of `int8`.
"""

import contextlib
import importlib
import importlib.util
import inspect
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import nn

from insitu.backbones.loading import load_pretrained
from insitu.errors import UserError
from insitu.params import Checkpoint
from insitu.params.base import float16_on_cpu, offload_on_cpu

Quantize = Literal["none", "nf4", "int8", "int8wo", "fp8"]
Offload = Literal["none", "block", "leaf"]

LIBRARY = {"nf4": "bitsandbytes", "int8": "bitsandbytes", "int8wo": "torchao", "fp8": "torchao"}
PARTS = ("unet", "transformer")
"""What a pipeline calls its large part."""
TEXT = "text_encoder_2"
"""What it calls its large text encoder: T5 of FLUX, OpenCLIP's of SDXL."""

BLOCK, NESTED_BLOCK = 64, 256
"""nf4: weights that share a constant, and constants that share a second one."""
# Tables that bitsandbytes keeps beside each nf4 weight, in float32: its 16 values, the 256 of the
# 8-bit format that holds the constants, and their mean.
NF4_TABLES = 4 * (16 + 256 + 1)


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How a pipeline's large part is held.

    Attributes:
        dtype: of all that is not quantized, and of the arithmetic.
        quantize: how linear layers are stored; `none` stores them in `dtype`.
        offload: keep the weights in the processor's memory and bring them to the device in groups,
            when they are needed: `block` brings whole blocks, `leaf` single layers. For painting
            only.
        text: do the same to the large text encoder.
    """

    dtype: torch.dtype = torch.float32
    quantize: Quantize = "none"
    offload: Offload = "none"
    text: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From plain values, as `Params.learning_base` gives them and JSON keeps them."""
        return cls(**{**values, "dtype": getattr(torch, values["dtype"])})


PLAIN = Precision()


def load_pipeline(
    pipeline_class: Any, checkpoint: Checkpoint, *, device: torch.device, precision: Precision
) -> Any:
    """A diffusers pipeline on `device`, its large part quantized while it loads.

    Raises:
        UserError: the precision cannot be had on this device (before anything is loaded), or the
            checkpoint is missing or incomplete.
    """
    require(precision, device)
    large = _large_parts(pipeline_class, precision)
    options: dict[str, Any] = {"dtype": precision.dtype}
    if precision.quantize != "none":
        from diffusers import PipelineQuantizationConfig

        configs = {part: _config(precision, of_transformers=part == TEXT) for part in large}
        options["quantization_config"] = PipelineQuantizationConfig(quant_mapping=configs)
    # bitsandbytes quantizes on the current device.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        pipeline = load_pretrained(pipeline_class, checkpoint, **options)
    if precision.offload == "none":
        return pipeline.to(device)
    for name, part in pipeline.components.items():
        if name in large:
            # A text encoder keeps its blocks where offload by block does not look for them.
            offload(part, device, "leaf" if name == TEXT else precision.offload)
        elif isinstance(part, nn.Module):
            part.to(device)
    return pipeline


def require(precision: Precision, device: torch.device) -> None:
    """Refuse what this device or installation cannot do.

    Raises:
        UserError: float16 on a CPU; nf4 or int8 without CUDA; a library that is not installed;
            offload on a CPU, or together with nf4 or int8; `text` with nothing to do.
    """
    kind = precision.quantize
    if precision.dtype == torch.float16 and device.type == "cpu":
        raise float16_on_cpu("`dtype` is float16 on a CPU.")
    if kind != "none":
        library = LIBRARY[kind]
        if library == "bitsandbytes" and device.type != "cuda":
            raise UserError(
                f"`quantize` is {kind} on {device.type}.",
                "diffusers quantizes with bitsandbytes on a GPU only.",
                "Set `quantize` to int8wo, fp8 or none, or run on cuda.",
            )
        if importlib.util.find_spec(library) is None:
            raise UserError(
                f"`quantize` is {kind}.",
                f"{library}, which stores weights so, is not installed.",
                "Install it (pip install 'insitu[quantize]'), or set `quantize` to none.",
            )
    if precision.offload != "none":
        given = f"`offload` is {precision.offload}"
        if device.type == "cpu":
            raise offload_on_cpu(f"{given} on a CPU.")
        if LIBRARY.get(kind) == "bitsandbytes":
            raise UserError(
                f"{given} and `quantize` is {kind}.",
                "bitsandbytes holds a weight in several tensors, and offload moves only one.",
                "Set `offload` to none, or `quantize` to int8wo or fp8.",
            )
    if precision.text and kind == "none" and precision.offload == "none":
        raise UserError(
            "`text` is true, and `quantize` and `offload` are none.",
            "There is nothing to do to the text encoder.",
            "Set `text` to false, or choose how to quantize or offload.",
        )


def require_trainable(precision: Precision) -> None:
    """Refuse to learn on an offloaded base.

    Raises:
        UserError: a layer's weights have left the device when its gradient is computed.
    """
    if precision.offload != "none":
        raise UserError(
            f"Training was asked for with `offload` {precision.offload}.",
            "The weights have left the device again when gradients need them.",
            "Set `offload` to none; `quantize` nf4 is what makes a base small enough to train on.",
        )


def offload(module: nn.Module, device: torch.device, how: Offload) -> None:
    """Keep a module's weights on the CPU, and on `device` only while its groups compute.

    On CUDA the next group travels while the present one computes, out of pinned memory.
    """
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(
        module,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=f"{how}_level",
        num_blocks_per_group=1 if how == "block" else None,
        use_stream=device.type == "cuda",
    )


def quantized_layers(model: nn.Module, quantize: Quantize) -> Iterator[tuple[str, nn.Linear]]:
    """Names and layers of an unquantized model that loading quantizes; it may be on meta."""
    from transformers import PreTrainedModel
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    if quantize == "none":
        return
    plain = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    if isinstance(model, PreTrainedModel):
        plain |= set(get_keys_to_not_convert(model))
    # transformers compares its patterns with a layer's name for one library, a weight's for the
    # other; diffusers keeps by a part of the name.
    end = "" if LIBRARY[quantize] == "bitsandbytes" else ".weight"
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Linear):
            continue
        if isinstance(model, PreTrainedModel):
            converted = should_convert_module(name + end, list(plain))
        else:
            converted = not any(f"{kept}." in f"{name}." for kept in plain)
        if converted:
            yield name, layer


def weights_bytes(model: nn.Module, precision: Precision) -> int:
    """Bytes of a model's parameters and buffers once loaded with `precision`, constants included.

    Args:
        model: unquantized; on the meta device it costs no memory.
        precision: `dtype` and `quantize` count; where the bytes lie, `offload`, does not.
    """
    small = {id(part.weight): part for _, part in quantized_layers(model, precision.quantize)}
    total = 0
    for tensor in (*model.parameters(), *model.buffers()):
        if id(tensor) in small:
            total += _stored(small[id(tensor)], precision)
        else:
            width = precision.dtype if tensor.is_floating_point() else tensor.dtype
            total += tensor.numel() * width.itemsize
    return total


def _stored(layer: nn.Linear, precision: Precision) -> int:
    """Bytes of a quantized weight [rows, columns] and its constants."""
    count, rows = layer.weight.numel(), layer.out_features
    match precision.quantize:
        case "nf4":
            constants = math.ceil(count / BLOCK)
            nested = 4 * math.ceil(constants / NESTED_BLOCK)
            return math.ceil(count / 2) + constants + nested + NF4_TABLES
        case "int8wo":
            return count + (4 + 1) * rows  # a scale and a zero point
        case _:
            return count + 4 * rows


def _large_parts(pipeline_class: Any, precision: Precision) -> list[str]:
    """What `precision` is about among a pipeline's parts."""
    parts = inspect.signature(pipeline_class.__init__).parameters
    large = [name for name in PARTS if name in parts]
    assert len(large) == 1, f"{pipeline_class} has {large}, not one large part"
    if precision.text:
        if TEXT not in parts:
            raise UserError(
                f"`text` is true, for a {pipeline_class.__name__}.",
                "It has one text encoder, which is small.",
                "Set `text` to false.",
            )
        large.append(TEXT)
    return large


def _config(precision: Precision, *, of_transformers: bool) -> Any:
    """The library's own settings; diffusers and transformers have a class each."""
    import diffusers
    import transformers

    library = transformers if of_transformers else diffusers
    match precision.quantize:
        case "nf4":
            return library.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=precision.dtype,
            )
        case "int8":
            # It warns at every product that int8 computes in float16.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            return library.BitsAndBytesConfig(load_in_8bit=True)
        case _:
            ao: Any = importlib.import_module("torchao.quantization")  # optional, and not typed
            int8 = precision.quantize == "int8wo"
            own = ao.Int8WeightOnlyConfig if int8 else ao.Float8WeightOnlyConfig
            # Without this it changes the precision of every float32 product in the process.
            return library.TorchAoConfig(own(set_inductor_config=False))
