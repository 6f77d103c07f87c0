"""EliGen: entities in words, each in a region of any shape, by regional attention."""

from collections.abc import Mapping
from typing import Any

from insitu.methods.eligen.method import EliGen, Settings

__all__ = ["EliGen", "Settings", "make"]


def make(settings: Mapping[str, Any]) -> EliGen:
    """The method with its settings, as params.yaml or an adapter's card holds them."""
    return EliGen(Settings(**settings))
