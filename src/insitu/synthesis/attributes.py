"""The attribute dictionary of a subject (DreamMix, ADM): the words for how it looks, by kind."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from insitu.perception.clip import ClipScorer
from insitu.perception.language import LanguageModel, Question
from insitu.synthesis.judging import answers
from insitu.synthesis.tagging import UNSAID, tag

Pixels = NDArray[np.uint8]
Dictionary = dict[str, tuple[str, ...]]
MOST_PICTURES = 4
"""Crops that a vision-language model is shown; more say little more and cost as much each."""


class AttributeReader(Protocol):
    """Reads the dictionary from crops of one subject."""

    def read(self, crops: Sequence[Pixels], class_word: str) -> Dictionary: ...


class ZeroShotAttributes:
    """The word of each kind that CLIP finds in the crops, of `words`: kind -> words."""

    def __init__(self, clip: ClipScorer, words: Mapping[str, Sequence[str]]) -> None:
        self._clip, self._words = clip, words

    def read(self, crops: Sequence[Pixels], class_word: str) -> Dictionary:
        found = tag(self._clip, crops, class_word, self._words)
        return {kind: (word,) for kind, word in found.items() if word not in UNSAID}


Word = Annotated[str, Field(min_length=1, max_length=30)]


class Attributes(BaseModel):
    """Words for how a thing looks, one or two words each; an empty list where there is none."""

    colour: list[Word]
    pattern: list[Word]
    material: list[Word]
    shape: list[Word]
    texture: list[Word]


class LanguageAttributes:
    """Asks a vision-language model.

    Raises:
        RuntimeError: the question stayed unanswered.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def read(self, crops: Sequence[Pixels], class_word: str) -> Dictionary:
        question = Question(
            images=tuple(np.ascontiguousarray(crop) for crop in crops[:MOST_PICTURES]),
            text=f"All pictures show one {class_word}. List every word for how it looks.",
            answer=Attributes,
        )
        (answer,) = answers(self._model, [question])
        said: dict[str, list[str]] = answer.model_dump()
        return {kind: tuple(words) for kind, words in said.items() if words}
