"""Proves that a precision which cannot be had is refused before anything is loaded. Needs
nothing.
"""

import importlib.util

import pytest
import torch
from diffusers import FluxPipeline

from insitu.backbones.precision import (
    LIBRARY,
    Precision,
    Quantize,
    load_pipeline,
    require,
)
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.params import Checkpoint
from tests.backbones.held import CPU, CUDA, MODES, load

__all__ = ["load"]


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
