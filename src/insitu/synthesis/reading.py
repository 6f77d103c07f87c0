"""What is in a picture, in words: taggers and captioners, zero-shot or a vision-language model.

A tagger names things; a captioner describes a crop (the regional caption) or a whole picture.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import crop_square
from insitu.perception.language import LanguageModel, Question
from insitu.synthesis.judging import answers
from insitu.synthesis.tagging import UNSAID
from insitu.world import article

Pixels = NDArray[np.uint8]
Corners = tuple[float, float, float, float]
SIDE = 64
"""Pixels of a crop that CLIP is shown; its processor resizes it to what the checkpoint wants."""


class Tagger(Protocol):
    """Names what is in each picture."""

    def tags(self, images: Sequence[Pixels]) -> list[tuple[str, ...]]:
        """The names of each picture's entities, none twice, sorted; no backgrounds among them."""
        ...


class Captioner(Protocol):
    """Describes crops and whole pictures."""

    def regional(self, crops: Sequence[Pixels], words: Sequence[str]) -> list[str]:
        """Each crop in words; `words` say what each shows."""
        ...

    def whole(self, images: Sequence[Pixels], parts: Sequence[Sequence[str]]) -> list[str]:
        """Each picture in words; `parts` are its things' regional captions, left to right."""
        ...


class ZeroShotTagger:
    """A zero-shot detector proposes, CLIP confirms each proposal against all words.

    CLIP alone, on whole pictures or on a grid of crops, finds half of what is there (docs/log.md).
    """

    def __init__(
        self,
        *,
        detector: ZeroShotDetector,
        clip: ClipScorer,
        things: Sequence[str],
        not_things: Sequence[str],
        threshold: float,
    ) -> None:
        self._detector, self._clip = detector, clip
        self._things, self._not_things = list(things), list(not_things)
        self._threshold = threshold

    def tags(self, images: Sequence[Pixels]) -> list[tuple[str, ...]]:
        queries = {article(word): word for word in self._things}
        found = self._detector.detect(images, list(queries), threshold=self._threshold)
        proposals = [(i, d) for i, own in enumerate(found) for d in own]
        if not proposals:
            return [() for _ in images]
        crops = [crop_square(images[i], d.box_xyxy01, SIDE) for i, d in proposals]
        words = [*self._things, *self._not_things]
        best = self._clip.zero_shot(crops, [article(word) for word in words]).argmax(1).tolist()
        tags: list[set[str]] = [set() for _ in images]
        for (i, detection), row in zip(proposals, best, strict=True):
            # What looks most like a background was no entity, whatever the detector took it for.
            if words[row] == queries[detection.query]:
                tags[i].add(words[row])
        return [tuple(sorted(own)) for own in tags]


class ZeroShotCaptioner:
    """Attribute words and a place that CLIP is sure of, in the grammar of `insitu.world`.

    Args:
        attributes: kind -> the words to choose from.
        places: phrases for backgrounds.
        clothes: word -> what such a one wears, which the first kind of attribute is said of, e.g.
            person -> shirt: "a person wearing a red shirt".
        certain: least probability, among the words of its kind, of a word that is said.
    """

    def __init__(
        self,
        *,
        clip: ClipScorer,
        attributes: Mapping[str, Sequence[str]],
        places: Sequence[str],
        clothes: Mapping[str, str],
        certain: float = 0.6,
    ) -> None:
        self._clip, self._attributes, self._places = clip, attributes, list(places)
        self._clothes, self._certain = clothes, certain

    def regional(self, crops: Sequence[Pixels], words: Sequence[str]) -> list[str]:
        phrases = [""] * len(crops)
        for word in sorted(set(words)):
            rows = [i for i, other in enumerate(words) if other == word]
            own = [crops[i] for i in rows]
            told = self._worn(own, word) if word in self._clothes else self._described(own, word)
            for i, phrase in zip(rows, told, strict=True):
                phrases[i] = phrase
        return phrases

    def whole(self, images: Sequence[Pixels], parts: Sequence[Sequence[str]]) -> list[str]:
        best = self._clip.zero_shot(images, self._places).argmax(1).tolist()
        return [
            " ".join(filter(None, [_listed(own), self._places[place]]))
            for own, place in zip(parts, best, strict=True)
        ]

    def _worn(self, crops: Sequence[Pixels], word: str) -> list[str]:
        garment = self._clothes[word]
        options = next(iter(self._attributes.values()))
        whole = [f"{article(word)} wearing {article(f'{option} {garment}')}" for option in options]
        sure, best = self._clip.zero_shot(crops, whole).max(1)
        return [
            whole[index] if p >= self._certain else article(word)
            for p, index in zip(sure.tolist(), best.tolist(), strict=True)
        ]

    def _described(self, crops: Sequence[Pixels], word: str) -> list[str]:
        said: list[list[str]] = [[] for _ in crops]
        for options in self._attributes.values():
            prompts = [article(f"{option} {word}") for option in options]
            sure, best = self._clip.zero_shot(crops, prompts).max(1)
            for own, p, index in zip(said, sure.tolist(), best.tolist(), strict=True):
                if p >= self._certain and options[index] not in UNSAID:
                    own.append(options[index])
        return [article(" ".join([*own, word])) for own in said]


class Tags(BaseModel):
    """What a picture shows: things that one could cut out, each in one or two words, singular."""

    things: list[Annotated[str, Field(min_length=1, max_length=40)]]


class Caption(BaseModel):
    """A description in one sentence, without "the picture shows"."""

    caption: Annotated[str, Field(min_length=1, max_length=600)]


class LanguageTagger:
    """Asks a vision-language model; names of what is no entity are dropped.

    Raises:
        RuntimeError: a question stayed unanswered; its row is then set aside.
    """

    def __init__(self, model: LanguageModel, not_things: Sequence[str]) -> None:
        self._model, self._not_things = model, {word.lower() for word in not_things}

    def tags(self, images: Sequence[Pixels]) -> list[tuple[str, ...]]:
        questions = [
            Question(
                images=(image,),
                text="Name the things in this picture, each once. Leave out backgrounds, such as"
                " sky, nature and skin.",
                answer=Tags,
            )
            for image in images
        ]
        return [
            tuple(sorted({t.lower().strip() for t in answer.things} - self._not_things))
            for answer in answers(self._model, questions)
        ]


class LanguageCaptioner:
    """Asks a vision-language model; raises as `LanguageTagger` does."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def regional(self, crops: Sequence[Pixels], words: Sequence[str]) -> list[str]:
        texts = [
            f"Describe the {word} in this crop in a short phrase: colour, pattern, material, what"
            " it wears. Say nothing of the background."
            for word in words
        ]
        return self._ask(crops, texts)

    def whole(self, images: Sequence[Pixels], parts: Sequence[Sequence[str]]) -> list[str]:
        return self._ask(images, ["Describe this picture in one sentence."] * len(images))

    def _ask(self, images: Sequence[Pixels], texts: Sequence[str]) -> list[str]:
        questions = [
            Question(images=(np.ascontiguousarray(image),), text=text, answer=Caption)
            for image, text in zip(images, texts, strict=True)
        ]
        return [answer.caption.strip() for answer in answers(self._model, questions)]


def _listed(phrases: Sequence[str]) -> str:
    if len(phrases) < 2:
        return "".join(phrases)
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]


def cut(image: Pixels, box: Corners) -> Pixels:
    """What lies in a box, whole pixels, at least one."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = box
    top, left = int(y0 * height), int(x0 * width)
    bottom, right = max(int(np.ceil(y1 * height)), top + 1), max(int(np.ceil(x1 * width)), left + 1)
    return np.ascontiguousarray(image[top:bottom, left:right])
