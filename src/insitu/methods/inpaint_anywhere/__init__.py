"""Inpaint-Anywhere: several identities into the boxes of a picture, all in one pass."""

from collections.abc import Mapping
from typing import Any

from insitu.methods.inpaint_anywhere.method import InpaintAnywhere, Settings

__all__ = ["InpaintAnywhere", "Settings", "make"]


def make(settings: Mapping[str, Any]) -> InpaintAnywhere:
    """The method with its settings, as params.yaml or an adapter's card holds them."""
    return InpaintAnywhere(Settings(**settings))
