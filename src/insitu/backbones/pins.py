"""Models that a method looks at things with, pinned by the digest of their weights."""

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from insitu.backbones.loading import base_digest, load_pretrained
from insitu.errors import UserError
from insitu.params import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Pin:
    """A checkpoint and the digest of its weights, 64 hex digits."""

    path: str
    revision: str | None
    digest: str


def load(model_class: Any, pin: Pin, key: str, device: torch.device) -> Any:
    """The pinned model, loaded once for all methods that ask for it.

    Args:
        key: under which `models` in params.yaml names it.

    Raises:
        UserError: it is missing, incomplete, or has other weights than those pinned.
    """
    return _load(model_class, pin, key, str(device))


@functools.lru_cache(maxsize=4)
def _load(model_class: Any, pin: Pin, key: str, device: str) -> Any:
    if pin.revision is None and not Path(pin.path).is_dir():
        raise UserError(
            f"The checkpoint {pin.path} was given as models.{key}.",
            "There is no such folder.",
            f"Correct models.{key} in params.yaml, or build the checkpoint (make nano).",
        )
    checkpoint = Checkpoint(path=pin.path, revision=pin.revision)
    found = base_digest(checkpoint)
    if found != pin.digest:
        raise UserError(
            f"The checkpoint {pin.path} was given as models.{key}, with the digest {found[:12]}.",
            f"The adapter learned from one with the digest {pin.digest[:12]}; another one's numbers"
            " mean nothing to it.",
            f"Set models.{key} to that checkpoint, or train again with this one.",
        )
    # Modes of torch are a thread's own. In one of its own the weights are read also where the
    # caller's tensors hold no numbers, and what is kept here serves every caller.
    with ThreadPoolExecutor(1) as alone:
        load = functools.partial(load_pretrained, model_class, checkpoint, device=device)
        return alone.submit(load).result()
