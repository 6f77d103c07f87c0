"""Attribute words of a subject, read from its photos without training (zero-shot CLIP)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from insitu.perception.clip import ClipScorer
from insitu.world import article

Image = NDArray[np.uint8]
UNSAID = ("plain",)
"""Words for the absence of something, which nobody says."""


def tag(
    clip: ClipScorer, crops: Sequence[Image], class_word: str, words: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """For each kind of attribute the word that fits all crops best, by mean logit.

    Args:
        crops: pictures of the subject, uint8 [H, W, 3].
        words: kind -> the words to choose from, e.g. colour -> red, blue.
    """
    chosen = {}
    for kind, options in words.items():
        prompts = [article(f"{word} {class_word}") for word in options]
        logits = clip.zero_shot(crops, prompts).log().mean(0)
        chosen[kind] = options[int(logits.argmax())]
    return chosen


def describe(tags: Mapping[str, str], class_word: str) -> str:
    """Tags as a phrase, e.g. "a red striped woolly mug"."""
    said = [word for word in tags.values() if word not in UNSAID]
    return article(" ".join([*said, class_word]))
