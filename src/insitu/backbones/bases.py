"""The bases that methods work on, by the keys of `models` in params.yaml."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch

from insitu.backbones.precision import PLAIN, Precision
from insitu.params import Checkpoint, Models

CLASSES = {
    "flux": ("insitu.backbones.flux", "FluxBackbone"),
    "inpaint": ("insitu.backbones.unet", "InpaintBackbone"),
}


def checkpoint_of(base: str, told: Mapping[str, Any]) -> Checkpoint:
    """A base's checkpoint from plain values, as `model_dump` gives them."""
    kind: Any = Models.model_fields[base].annotation
    found: Checkpoint = kind(**told)
    return found


def load(
    base: str, checkpoint: Checkpoint, *, device: torch.device, precision: Precision = PLAIN
) -> Any:
    """The backbone with its weights. Raises UserError as its class does."""
    return _class(base).load(checkpoint, device=device, precision=precision)


def size_of(base: str, checkpoint: Checkpoint) -> int:
    """Side in pixels of the pictures that a base works on.

    Raises:
        UserError: a configuration that says so is missing.
    """
    found: int = _class(base).size_of(checkpoint)
    return found


def empty(base: str, checkpoint: Checkpoint, *, precision: Precision = PLAIN) -> Any:
    """The backbone in its shapes alone, for memory plans."""
    return _class(base).empty(checkpoint, precision=precision)


def _class(base: str) -> Any:
    module, kind = CLASSES[base]
    return getattr(importlib.import_module(module), kind)
