"""UNO: a picture from a prompt that shows given subjects, wherever it likes."""

from collections.abc import Mapping
from typing import Any

from insitu.methods.uno.method import Settings, Uno

__all__ = ["Settings", "Uno", "make"]


def make(settings: Mapping[str, Any]) -> Uno:
    """The method with its settings, as params.yaml or an adapter's card holds them."""
    return Uno(Settings(**settings))
