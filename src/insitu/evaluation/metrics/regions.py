"""What a region looks like: CLIP-I, DINO, CLIP-T and copy-paste, by crops of boxes.

CLIP-I and DINO: mean cosine of the entity's crop with each reference's (DreamBooth, Ruiz et al.
2023, section 4.1). CLIP-T: cosine of the crop, or of the whole picture, with the text.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from insitu.evaluation.metrics.cases import Case, Entity, Image, Photo, Remembered, missing
from insitu.evaluation.metrics.scores import Parts, Scale, Scores, score
from insitu.perception.clip import ClipScorer
from insitu.perception.dino import crop_square

EPS = 1e-6
"""Least angle, in radians, that copy-paste is measured against."""


class ImageEmbedder(Protocol):
    """Unit embeddings [N, D] of uint8 RGB images: `ClipScorer`, `IdentityEncoder`."""

    def embed_images(self, images: Sequence[Image]) -> Tensor: ...


class Regions:
    """Embeddings of square crops around boxes."""

    def __init__(
        self,
        embedder: ImageEmbedder,
        *,
        size: int,
        margin: float = 0.0,
        background: Literal["kept", "white"] = "kept",
    ) -> None:
        """Set how regions are cut.

        Args:
            size: side of the crops in pixels, best the embedder's own.
            margin: share of the box's longer side added on each side.
            background: "white" paints what is outside of the mask white first; every entity and
                every photo then needs a mask.
        """
        self.embedder, self.size, self.margin = embedder, size, margin
        self.background = background
        self.photos: Remembered[Photo, Tensor] = Remembered(self._embed)
        """Unit embeddings [D] of photos."""
        self.cases: Remembered[Case, Tensor] = Remembered(self._embed_cases)
        """Unit embeddings [E, D] of each case's entities' regions."""

    def crop(self, photo: Photo) -> Image:
        """The region as it is embedded, uint8 [size, size, 3].

        Raises:
            UserError: the background is to be white and there is no mask, or the box is empty.
        """
        image = photo.image
        if self.background == "white":
            if photo.mask_HW is None:
                raise missing("masks", "the background to be painted white is not known")
            image = np.where(photo.mask_HW[..., None], image, np.uint8(255))
        return crop_square(image, photo.box_xyxy01, self.size, self.margin)

    def _embed(self, photos: list[Photo]) -> list[Tensor]:
        return list(self.embedder.embed_images([self.crop(photo) for photo in photos]))

    def _embed_cases(self, cases: list[Case]) -> list[Tensor]:
        views = [
            Photo(image=case.picture, box_xyxy01=entity.box_xyxy01, mask_HW=entity.mask_HW)
            for case in cases
            for entity in entities(case)
        ]
        return list(torch.stack(self._embed(views)).split([len(case.entities) for case in cases]))


def entities(case: Case) -> tuple[Entity, ...]:
    """The case's entities. Raises UserError if there is none."""
    if not case.entities:
        raise missing("entities", "no box says which regions are meant")
    return case.entities


class RegionLikeness:
    """Mean cosine of each entity's region with its references', -1..1."""

    def __init__(self, name: str, regions: Regions) -> None:
        """`name` says with which model's eyes: "dino", "clip_i"."""
        self.regions = regions
        self.scale = Scale(name=name, low=-1, high=1, higher_is_better=True, unit="cosine")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        seen = self.regions.cases(cases)
        known = iter(self.regions.photos([p for c in cases for e in c.entities for p in refs(e)]))
        return [
            tuple(
                float((torch.stack([next(known) for _ in entity.references]) @ one).mean())
                for entity, one in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, seen, strict=True)
        ]


class RegionIdentity:
    """1 for an entity whose region is nearer to its own references than to any other entity's.

    By the mean cosine with an entity's references. Of two that were swapped both have 0; chance is
    one half with two entities, and one that is alone has 1.
    """

    scale = Scale(name="own_box", low=0, high=1, higher_is_better=True, unit="share in own box")

    def __init__(self, regions: Regions) -> None:
        self.regions = regions

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        asked = [p for c in cases for e in c.entities for p in refs(e)]
        known = dict(zip(asked, self.regions.photos(asked), strict=True))
        found: list[Parts] = []
        for case, own in zip(cases, self.regions.cases(cases), strict=True):
            means = [torch.stack([known[p] for p in e.references]).mean(0) for e in case.entities]
            nearest = (own @ torch.stack(means).T).argmax(1)
            found.append(tuple(float(n == k) for k, n in enumerate(nearest.tolist())))
        return found


def refs(entity: Entity) -> tuple[Photo, ...]:
    """The entity's references. Raises UserError if there is none."""
    if not entity.references:
        raise missing("references", "nothing says what the entity is to look like")
    return entity.references


class RegionText:
    """Regional CLIP-T: cosine of each entity's region with the entity's text, -1..1."""

    def __init__(self, clip: ClipScorer, regions: Regions, *, name: str = "clip_t") -> None:
        """`regions` holds the same `clip`."""
        self.clip, self.regions = clip, regions
        self.scale = Scale(name=name, low=-1, high=1, higher_is_better=True, unit="cosine")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        texts = [[given(entity.text) for entity in entities(case)] for case in cases]
        told = _embed_texts(self.clip, [text for own in texts for text in own])
        return [
            tuple(
                float(one @ told[text])
                for one, text in zip(own, asked, strict=True)
            )
            for own, asked in zip(self.regions.cases(cases), texts, strict=True)
        ]  # fmt: skip


class PictureText:
    """Global CLIP-T: cosine of the whole picture with the case's text, -1..1."""

    scale = Scale(name="clip_t_global", low=-1, high=1, higher_is_better=True, unit="cosine")

    def __init__(self, clip: ClipScorer) -> None:
        self.clip = clip

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        told = _embed_texts(self.clip, [given(case.text) for case in cases])
        seen = self.clip.embed_images([case.picture for case in cases])
        return [(float(one @ told[case.text]),) for one, case in zip(seen, cases, strict=True)]


def given(text: str) -> str:
    """The text. Raises UserError if it is empty."""
    if not text.strip():
        raise missing("texts", "an empty text says nothing")
    return text


def _embed_texts(clip: ClipScorer, texts: Sequence[str]) -> dict[str, Tensor]:
    distinct = list(dict.fromkeys(texts))
    return dict(zip(distinct, clip.embed_texts(distinct), strict=True))


class RegionCopyPaste:
    """Copy-paste of things: is the region nearer to the reference than to the truth?

    See `copy_paste`; the mean over an entity's references, with any embedder.
    """

    def __init__(self, regions: Regions, *, name: str = "copy_paste", eps: float = EPS) -> None:
        self.regions, self.eps = regions, eps
        self.scale = copy_paste_scale(name)

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        asked = [p for c in cases for e in entities(c) for p in (truth(e), *refs(e))]
        known = dict(zip(asked, self.regions.photos(asked), strict=True))
        return [
            tuple(
                float(
                    np.mean(
                        [
                            copy_paste(one, known[truth(entity)], known[photo], eps=self.eps)
                            for photo in entity.references
                        ]
                    )
                )
                for entity, one in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.regions.cases(cases), strict=True)
        ]


def truth(entity: Entity) -> Photo:
    """The entity in the true picture. Raises UserError if there is none."""
    if entity.truth is None:
        raise missing("true pictures", "copying shows in what the truth has otherwise")
    return entity.truth


def copy_paste_scale(name: str) -> Scale:
    """1 = the reference itself, -1 = the ground truth."""
    return Scale(name=name, low=-1, high=1, higher_is_better=False, unit="share of an angle")


def copy_paste(
    generated_D: Tensor, truth_D: Tensor, reference_D: Tensor, *, eps: float = EPS
) -> float:
    """CP = (angle(g, gt) - angle(g, ref)) / max(angle(gt, ref), eps) of unit embeddings, -1..1.

    AnyPhoto's copy-paste metric. Angles obey the triangle inequality, so it stays within -1..1:
    the reference itself has +1, the ground truth -1.
    """
    g, gt, ref = (v.detach().cpu().double().numpy() for v in (generated_D, truth_D, reference_D))
    return (angle(g, gt) - angle(g, ref)) / max(angle(gt, ref), eps)


def angle(one_D: np.ndarray, other_D: np.ndarray) -> float:
    """The angle between two vectors in radians, 0..pi.

    By Kahan's formula, since the arc cosine loses small angles.
    """
    one, other = one_D / np.linalg.norm(one_D), other_D / np.linalg.norm(other_D)
    return float(2 * np.arctan2(np.linalg.norm(one - other), np.linalg.norm(one + other)))
