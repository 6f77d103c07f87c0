"""LAR-Gen: Locate, Assign, Refine. Text, a picture of a subject, or both, into a masked place."""

from collections.abc import Mapping
from typing import Any

from insitu.backbones.pins import Pin
from insitu.methods.lar_gen.method import LarGen
from insitu.methods.lar_gen.networks import Settings

__all__ = ["MODELS", "LarGen", "Settings", "make"]

MODELS = ("clip",)
"""Models of params.yaml, beside the base, that the settings pin."""


def make(settings: Mapping[str, Any]) -> LarGen:
    """The method with its settings, as an adapter's card holds them."""
    return LarGen(Settings(**{**settings, "clip": Pin(**settings["clip"])}))
