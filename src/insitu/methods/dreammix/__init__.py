"""DreamMix: per-subject tuning of an inpainting model that keeps its attributes editable."""

from collections.abc import Mapping
from typing import Any

from insitu.methods.dreammix.method import DreamMix, Settings

__all__ = ["DreamMix", "Settings", "make"]


def make(settings: Mapping[str, Any]) -> DreamMix:
    """The method with its settings, as params.yaml or an adapter's card holds them."""
    return DreamMix(Settings(**{**settings, "targets": tuple(settings["targets"])}))
