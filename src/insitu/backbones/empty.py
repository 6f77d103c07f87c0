"""A pipeline built from its configuration alone: real classes and shapes, weights never read."""

import importlib
from typing import Any

import torch
from torch import nn

from insitu.backbones.loading import BROKEN
from insitu.errors import UserError
from insitu.params import Checkpoint


def empty_pipeline(pipeline_class: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The pipeline of a checkpoint with weights as they are before training, in `dtype`.

    Within `torch.device("meta")` or a `FakeTensorMode` that takes no memory. Of a hub id only
    configurations and tokenizers are fetched.

    Raises:
        UserError: a configuration is missing or of another model.
    """
    try:
        index = pipeline_class.load_config(checkpoint.path, revision=checkpoint.revision)
        parts = {
            name: _part(name, entry[0], entry[1], checkpoint, dtype)
            for name, entry in index.items()
            if isinstance(entry, list | tuple) and len(entry) == 2
        }
        options = {k: v for k, v in index.items() if not k.startswith("_") and k not in parts}
        return pipeline_class(**parts, **options)
    except BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{checkpoint.path} was to be built as {pipeline_class.__name__} without weights.",
            f"Its configuration is incomplete or of another model: {first}",
            "Restore the folder (git checkout, dvc pull, make nano), or correct params.yaml.",
        ) from error


def _part(
    name: str, library: str | None, kind: str | None, checkpoint: Checkpoint, dtype: torch.dtype
) -> Any:
    if library is None or kind is None:
        return None  # the pipeline does without it
    found = getattr(importlib.import_module(library), kind)
    place = {"subfolder": name, "revision": checkpoint.revision}
    if not issubclass(found, nn.Module):
        return found.from_pretrained(checkpoint.path, **place)
    if hasattr(found, "load_config"):  # diffusers' models; others are transformers'
        model = found.from_config(found.load_config(checkpoint.path, **place))
    else:
        model = found(found.config_class.from_pretrained(checkpoint.path, **place))
    return nn.Module.to(model, dtype)  # diffusers' own warns of weights to be kept in float32
