"""Judges of candidates: is it this identity (filter B), is it a good picture (filter C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from insitu.perception.clip import ClipScorer
from insitu.perception.dino import IdentityEncoder, crop_square
from insitu.perception.language import LanguageModel, Question, Unanswered

Pixels = NDArray[np.uint8]
CROP = 224
"""Pixels of a crop that a vision-language model sees, at most."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A place in a picture, uint8 [H, W, 3]."""

    image: Pixels
    box_xyxy01: tuple[float, float, float, float]


class Judge(Protocol):
    """One calling convention for filter B and filter C."""

    def same(
        self,
        found: Sequence[View],
        references: Sequence[Sequence[View]],
        categories: Sequence[str],
    ) -> list[float]:
        """How surely the nth found place shows the nth references' identity; 1 = surely."""
        ...

    def quality(self, images: Sequence[Pixels]) -> list[float]:
        """How good each picture is, higher is better, comparable within one judge only."""
        ...


class EmbeddingJudge:
    """Identity by DINO's cosine to the nearest reference, quality by CLIP's aesthetic head."""

    def __init__(self, *, dino: IdentityEncoder, clip: ClipScorer) -> None:
        self._dino, self._clip = dino, clip

    def same(
        self,
        found: Sequence[View],
        references: Sequence[Sequence[View]],
        categories: Sequence[str],
    ) -> list[float]:
        if not found:
            return []
        # Proposals of one identity share its references: each is embedded once.
        distinct = {_key(view): view for own in references for view in own}
        rows = {key: row for row, key in enumerate(distinct)}
        known = self._embed(list(distinct.values()))
        seen = self._embed(found)
        return [
            float((known[[rows[_key(v)] for v in own]] @ one).max())
            for one, own in zip(seen, references, strict=True)
        ]

    def quality(self, images: Sequence[Pixels]) -> list[float]:
        return [float(score) for score in self._clip.aesthetic(images)]

    def _embed(self, views: Sequence[View]) -> torch.Tensor:
        return self._dino.embed_crops([v.image for v in views], [v.box_xyxy01 for v in views])


class Sameness(BaseModel):
    """Whether it is one and the same thing, 0 = surely not, 1 = surely."""

    same: Annotated[float, Field(ge=0, le=1)]


class Rating(BaseModel):
    """How good a picture is, 0 = spoilt, 10 = flawless."""

    quality: Annotated[float, Field(ge=0, le=10)]


class LanguageJudge:
    """Asks a vision-language model, as the paper asks GPT-4o.

    Raises:
        RuntimeError: a question stayed unanswered; its row is then set aside.
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    def same(
        self,
        found: Sequence[View],
        references: Sequence[Sequence[View]],
        categories: Sequence[str],
    ) -> list[float]:
        questions = [
            Question(
                images=tuple(_crop(view) for view in (*own, one)),
                text=f"The first {len(own)} pictures show one {category}. Does the last picture"
                " show the very same one, with the same shape, colours, pattern and marks?"
                " Pose, size, light and what hides it do not matter.",
                answer=Sameness,
            )
            for one, own, category in zip(found, references, categories, strict=True)
        ]
        return [answer.same for answer in answers(self._model, questions)]

    def quality(self, images: Sequence[Pixels]) -> list[float]:
        questions = [
            Question(
                images=(image,),
                text="Rate this picture's quality: sharpness, composition, absence of artefacts,"
                " of blur and of clutter.",
                answer=Rating,
            )
            for image in images
        ]
        return [answer.quality for answer in answers(self._model, questions)]


def answers(model: LanguageModel, questions: Sequence[Question]) -> list[Any]:
    """An answer to every question.

    Raises:
        RuntimeError: one stayed unanswered.
    """
    found = model.ask(questions)
    for answer in found:
        if isinstance(answer, Unanswered):
            raise RuntimeError(f"unanswered: {answer.reason}")
    return list(found)


def _key(view: View) -> tuple[bytes, tuple[float, float, float, float]]:
    return view.image.tobytes(), view.box_xyxy01


def _crop(view: View) -> Pixels:
    return np.ascontiguousarray(crop_square(view.image, view.box_xyxy01, CROP))
