"""DreamMix: per-subject tuning of an inpainting model that keeps its attributes editable."""

from insitu.methods.dreammix.method import DreamMix, Settings

__all__ = ["DreamMix", "Settings", "make"]


def make(settings: Settings) -> DreamMix:
    """The method with its settings."""
    return DreamMix(settings)
