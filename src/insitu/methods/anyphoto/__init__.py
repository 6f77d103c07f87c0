"""AnyPhoto: several people, each at a given place, from one picture of each."""

from collections.abc import Mapping
from typing import Any

from insitu.backbones.pins import Pin
from insitu.methods.anyphoto.method import AnyPhoto, Settings

__all__ = ["MODELS", "AnyPhoto", "Settings", "make"]

MODELS = ("face",)
"""Models of params.yaml, beside the base, that the settings pin."""


def make(settings: Mapping[str, Any]) -> AnyPhoto:
    """The method with its settings, as an adapter's card holds them."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    given["face"] = Pin(**settings["face"])
    return AnyPhoto(Settings(**given))
