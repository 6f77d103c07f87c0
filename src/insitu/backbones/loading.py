"""Loading a checkpoint with its library's own class, refused in our words when it is not whole."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.params import Checkpoint

# What `from_pretrained` raises for files that are missing, cut short or of another model. A bug of
# ours shows as something else.
BROKEN = (OSError, ValueError, KeyError, json.JSONDecodeError, SafetensorError)


def load_pretrained(model_class: Any, checkpoint: Checkpoint, **options: Any) -> Any:
    """`model_class.from_pretrained` of a folder or of a hub id at its pinned commit.

    Raises:
        UserError: the folder is missing or incomplete, or holds another kind of model.
    """
    if not checkpoint.is_hub_id and not Path(checkpoint.path).is_dir():
        raise UserError(
            f"The checkpoint folder {checkpoint.path} was given.",
            "There is no such folder.",
            "Correct the path in params.yaml, or build the checkpoint (make nano).",
        )
    try:
        return model_class.from_pretrained(checkpoint.path, revision=checkpoint.revision, **options)
    except UserError:
        raise
    except BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{checkpoint.path} was to be loaded as {model_class.__name__}.",
            f"Its files are incomplete or of another model: {first}",
            "Restore the folder (git checkout, dvc pull, make nano), or correct params.yaml.",
        ) from error


def config_of(model_class: Any, checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    """The configuration of a part of a diffusers pipeline.

    Raises:
        UserError: there is none.
    """
    try:
        found: dict[str, Any] = model_class.load_config(
            checkpoint.path, subfolder=part, revision=checkpoint.revision
        )
    except BROKEN as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{checkpoint.path} was given as a checkpoint.",
            f"The configuration of its {part} cannot be read: {first}",
            "Restore the folder (git checkout, dvc pull, make nano), or correct params.yaml.",
        ) from error
    return found


def choose_device(asked: str) -> torch.device:
    """The device that the setting `device` (auto, cpu or cuda) comes to on this machine.

    Raises:
        UserError: cuda is asked for and not to be had.
    """
    cuda = torch.cuda.is_available()
    if asked == "cuda" and not cuda:
        raise UserError(
            "`device` is cuda.",
            "torch finds no CUDA device here.",
            "Set `device` to auto or cpu, or install a CUDA build of torch and its driver.",
        )
    return torch.device("cuda" if cuda and asked != "cpu" else "cpu")


def base_digest(checkpoint: Checkpoint) -> str:
    """What pins a base, 64 hex digits: its weights' digest, of a hub id that of id and commit.

    Raises:
        UserError: a local folder is missing or holds no weights.
    """
    if checkpoint.is_hub_id:
        pinned = f"{checkpoint.path}@{checkpoint.revision}"
        return hashlib.sha256(pinned.encode()).hexdigest()
    return weights_digest(Path(checkpoint.path))
