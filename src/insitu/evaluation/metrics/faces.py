"""Whose faces a picture shows: Sim(GT), Sim(Ref), copy-paste, and how many were found at all.

AnyPhoto's and MultiID-Bench's metrics. All entities of a case are people; each has a true face, a
reference, or both. Identities and the picture's faces are paired so that the sum of likenesses to
the true faces (to the references where there is none) is greatest. So these metrics say who is
there, not where; places are `LocationError`'s.

An identity without a face has failed in every one of them: `Summary.measured_share` is the
detection rate beside each mean.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from insitu.errors import UserError
from insitu.evaluation.metrics.cases import Case, Entity, Photo, Remembered
from insitu.evaluation.metrics.regions import (
    EPS,
    copy_paste,
    copy_paste_scale,
    entities,
    refs,
    truth,
)
from insitu.evaluation.metrics.scores import Failure, Parts, Scale, Scores, score
from insitu.perception.detector import iou
from insitu.perception.face_finder import FaceFinder


class FaceReader:
    """The faces of pictures, and whose they are, for all face metrics."""

    def __init__(self, finder: FaceFinder, *, overlap: float = 0.5) -> None:
        """`overlap` = least IoU of a photo's box and the found one that is taken for its face."""
        self.finder, self.overlap = finder, overlap
        self.cases: Remembered[Case, list[Tensor | Failure]] = Remembered(self._read)
        """For each case, the embedding [D] of each identity's face."""
        self.photos: Remembered[Photo, Tensor] = Remembered(self._known)
        """The embedding [D] of the face in each photo's box."""

    def _known(self, photos: list[Photo]) -> list[Tensor]:
        found = []
        for photo, faces in zip(
            photos, self.finder.find([photo.image for photo in photos]), strict=True
        ):
            boxes = torch.tensor([face.box_xyxy01 for face in faces]).reshape(-1, 4)
            overlaps = iou(torch.tensor([photo.box_xyxy01]), boxes)[0].tolist()
            if max(overlaps, default=0.0) < self.overlap:
                raise UserError(
                    f"A photo with a face in {tuple(round(v, 3) for v in photo.box_xyxy01)} was"
                    " given.",
                    f"{self.finder.name} finds {len(faces)} faces in it, and none there: the best"
                    f" overlap is {max(overlaps, default=0.0):.2f}, and {self.overlap} is needed.",
                    "Use a photo in which the face is found, or leave its cases out.",
                )
            best = faces[int(np.argmax(overlaps))]
            found.append(torch.from_numpy(best.embedding))
        return found

    def _read(self, cases: list[Case]) -> list[list[Tensor | Failure]]:
        known = [[_standard(entity) for entity in entities(case)] for case in cases]
        wanted = iter(self.photos([photo for own in known for photo in own]))
        read = []
        for own, faces in zip(
            known, self.finder.find([case.picture for case in cases]), strict=True
        ):
            targets = torch.stack([next(wanted) for _ in own])
            seen = torch.from_numpy(np.array([f.embedding for f in faces], np.float32))
            likeness_IF = (targets @ seen.reshape(-1, targets.shape[1]).T).double().numpy()
            why = Failure(f"no face was left for it, {len(faces)} found for {len(own)} people")
            read.append([why if f is None else seen[f] for f in pair(likeness_IF)])
        return read


def _standard(entity: Entity) -> Photo:
    return entity.truth if entity.truth is not None else refs(entity)[0]


def pair(likeness_IF: NDArray[np.float64]) -> list[int | None]:
    """The face of each identity, or None: distinct, with the greatest sum (Hungarian method)."""
    found: list[int | None] = [None] * len(likeness_IF)
    for identity, face in zip(*linear_sum_assignment(likeness_IF, maximize=True), strict=True):
        found[identity] = int(face)
    return found


class FaceFound:
    """1 for a person whose face is found, 0 for one without; the mean is the detection rate."""

    scale = Scale(name="face_found", low=0, high=1, higher_is_better=True, unit="share found")

    def __init__(self, reader: FaceReader) -> None:
        self.reader = reader

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        return [
            tuple(float(not isinstance(face, Failure)) for face in own)
            for own in self.reader.cases(cases)
        ]


class FaceLikeness:
    """Sim(GT) or Sim(Ref): cosine of a person's face with the true one's or the references', -1..1.

    With several references their mean.
    """

    def __init__(self, reader: FaceReader, to: Literal["truth", "reference"]) -> None:
        self.reader, self.to = reader, to
        name = {"truth": "face_sim_gt", "reference": "face_sim_ref"}[to]
        self.scale = Scale(name=name, low=-1, high=1, higher_is_better=True, unit="cosine")

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        asked = [photo for c in cases for entity in entities(c) for photo in self._photos(entity)]
        known = dict(zip(asked, self.reader.photos(asked), strict=True))
        return [
            tuple(
                face
                if isinstance(face, Failure)
                else float(torch.stack([known[p] @ face for p in self._photos(entity)]).mean())
                for entity, face in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.reader.cases(cases), strict=True)
        ]

    def _photos(self, entity: Entity) -> tuple[Photo, ...]:
        return (truth(entity),) if self.to == "truth" else refs(entity)


class FaceCopyPaste:
    """Is the face nearer to the reference than to the truth, -1..1; see `regions.copy_paste`.

    With several references their mean.
    """

    scale = copy_paste_scale("face_copy_paste")

    def __init__(self, reader: FaceReader, *, eps: float = EPS) -> None:
        self.reader, self.eps = reader, eps

    def __call__(self, cases: Sequence[Case]) -> Scores:
        return score(self.scale, cases, self._measure, each_entity=True)

    def _measure(self, cases: list[Case]) -> list[Parts]:
        asked = [p for c in cases for e in entities(c) for p in (truth(e), *refs(e))]
        known = dict(zip(asked, self.reader.photos(asked), strict=True))
        return [
            tuple(
                face if isinstance(face, Failure) else self._one(face, entity, known)
                for entity, face in zip(case.entities, own, strict=True)
            )
            for case, own in zip(cases, self.reader.cases(cases), strict=True)
        ]

    def _one(self, face_D: Tensor, entity: Entity, known: dict[Photo, Tensor]) -> float:
        gt = known[truth(entity)]
        shares = [copy_paste(face_D, gt, known[p], eps=self.eps) for p in entity.references]
        return float(np.mean(shares))
