"""Group photos with names (AnyPhoto, appendix A.3), and the face bank that the names point into.

(1) Persons are cut out; (2) faces are found, with five landmarks; (3) each face gets the identity
whose annotated box and bank embeddings match best: a weighted score of the boxes' IoU and the
embeddings' similarity, assigned greedily; (4) the picture is described. Rows with a missing or
poor reference are dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.perception.detector import ZeroShotDetector
from insitu.perception.face_finder import FaceFinder, FoundFace
from insitu.perception.segmenter import Segmenter
from insitu.records import Box, Image
from insitu.records.engines import BankFace, Face, Group, Lineage
from insitu.synthesis.boxes import overlap, share_inside, stored
from insitu.synthesis.people import Annotated, Named, Portrait
from insitu.synthesis.reading import Captioner, cut
from insitu.synthesis.runner import Verdict

Pixels = NDArray[np.uint8]
Corners = tuple[float, float, float, float]
PERSON = "a person"
FILTERS = ("faces found", "names match", "references good")
BANK_FILTERS = ("one face",)


class Bank:
    """Faces of the reference bank; a picture without exactly one sure face is refused."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder

    def __call__(self, rows: Sequence[Portrait]) -> list[Verdict[BankFace]]:
        found = self._finder.find([row.image for row in rows])
        return [self._verdict(row, faces) for row, faces in zip(rows, found, strict=True)]

    def _verdict(self, row: Portrait, faces: Sequence[FoundFace]) -> Verdict[BankFace]:
        face = faces[0] if faces else None
        record = BankFace(
            id=row.id,
            identity=row.identity,
            image=Image.from_array(row.image),
            box=stored(face.box_xyxy01) if face else Box(x0=0, y0=0, x1=1, y1=1),
            landmarks=_numbers(face.landmarks_xy01) if face else (),
            embedding=_numbers(face.embedding) if face else (),
            split=row.split,
            lineage=Lineage(sources=(row.source,), models=(self._finder.name,)),
        )
        if len(faces) == 1:
            return Verdict(record=record)
        why = f"{len(faces)} faces are found"
        return Verdict(record=record, filter=BANK_FILTERS[0], score=float(len(faces)), reason=why)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How faces get names.

    Attributes:
        box_weight: of the boxes' IoU in the score; the rest is the similarity's, in 0..1.
        match: least score of a name.
        similarity: least cosine to the nearest reference of that name.
        detection: least score of a person.
    """

    box_weight: float
    match: float
    similarity: float
    detection: float


class Groups:
    """Persons, faces, names and a caption for each photo."""

    def __init__(
        self,
        *,
        finder: FaceFinder,
        detector: ZeroShotDetector,
        segmenter: Segmenter,
        captioner: Captioner,
        bank: Mapping[str, NDArray[np.float32]],
        rules: Rules,
        names: Sequence[str],
    ) -> None:
        """`bank` = embeddings [R, D] of each identity's references."""
        self._finder, self._detector = finder, detector
        self._segmenter, self._captioner = segmenter, captioner
        self._bank, self._rules = bank, rules
        self._names = (finder.name, segmenter.name, *names)

    def __call__(self, rows: Sequence[Annotated]) -> list[Verdict[Group]]:
        images = [row.image for row in rows]
        faces = self._finder.find(images)
        persons = self._detector.detect(images, [PERSON], threshold=self._rules.detection)
        matched = [
            match(found, row.names, self._bank, self._rules.box_weight)
            for found, row in zip(faces, rows, strict=True)
        ]
        asked = [
            (i, m, _person(m.face.box_xyxy01, [d.box_xyxy01 for d in persons[i]]))
            for i, own in enumerate(matched)
            for m in own
        ]
        masks = (
            self._segmenter.segment([images[i] for i, _, _ in asked], [box for _, _, box in asked])
            if asked
            else []
        )
        crops = [cut(images[i], box) for i, _, box in asked]
        said = self._captioner.regional(crops, ["person"] * len(crops)) if crops else []
        named: list[list[Face]] = [[] for _ in rows]
        parts: list[list[tuple[float, str]]] = [[] for _ in rows]
        for (i, m, box), mask, text in zip(asked, masks, said, strict=True):
            named[i].append(_face(m, mask))
            parts[i].append((box[0] + box[2], text))
        captions = self._captioner.whole(images, [[t for _, t in sorted(own)] for own in parts])
        return [
            self._verdict(row, own, caption)
            for row, own, caption in zip(rows, named, captions, strict=True)
        ]

    def _verdict(self, row: Annotated, faces: Sequence[Face], caption: str) -> Verdict[Group]:
        record = Group(
            id=row.id,
            image=Image.from_array(row.image),
            faces=tuple(faces),
            prompt=caption,
            split=row.split,
            lineage=Lineage(sources=(row.source,), models=self._names),
        )
        rules, missing = self._rules, len(row.names) - len(faces)
        if missing:
            why = f"{missing} of {len(row.names)} named faces are not found"
            return Verdict(record=record, filter=FILTERS[0], score=float(-missing), reason=why)
        worst = min((face.score for face in faces), default=0.0)
        if worst < rules.match:
            why = f"a name matches {worst:.2f} < {rules.match:g}"
            return Verdict(record=record, filter=FILTERS[1], score=worst, reason=why)
        least = min(face.similarity for face in faces)
        if least < rules.similarity:
            why = f"a face is {least:.2f} like its references < {rules.similarity:g}"
            return Verdict(record=record, filter=FILTERS[2], score=least, reason=why)
        return Verdict(record=record)


@dataclass(frozen=True, kw_only=True)
class Match:
    """A face and the name it got; cosine = to the nearest reference of that name."""

    face: FoundFace
    identity: str
    score: float
    cosine: float


def match(
    faces: Sequence[FoundFace],
    names: Sequence[Named],
    bank: Mapping[str, NDArray[np.float32]],
    box_weight: float,
) -> list[Match]:
    """A name for each face, the highest score first, neither face nor name twice (greedy).

    The score is `w IoU + (1 - w) (1 + cosine) / 2`, in 0..1; a name without references has cosine
    -1. What shares nothing with a box and is no more like the references than chance stays unnamed.
    """
    scored = []
    for f, face in enumerate(faces):
        for n, name in enumerate(names):
            known = bank.get(name.identity)
            cosine = -1.0 if known is None else float((known @ face.embedding).max())
            shared = overlap(face.box_xyxy01, name.box_xyxy01)
            if shared > 0:
                score = box_weight * shared + (1 - box_weight) * (1 + cosine) / 2
                scored.append((score, f, n, cosine))
    result, used_faces, used_names = [], set(), set()
    for score, f, n, cosine in sorted(scored, key=lambda row: (-row[0], row[1], row[2])):
        if f not in used_faces and n not in used_names:
            used_faces.add(f)
            used_names.add(n)
            result.append(
                Match(face=faces[f], identity=names[n].identity, score=score, cosine=cosine)
            )
    return sorted(result, key=lambda m: m.face.box_xyxy01[0])


def _person(face: Corners, persons: Sequence[Corners]) -> Corners:
    """The person's box that holds most of a face, the smallest of equals; without one, its bust."""
    holding = [
        (round(share_inside(face, box), 2), -(box[2] - box[0]) * (box[3] - box[1]), box)
        for box in persons
    ]
    if holding and max(holding)[0] > 0.5:
        return max(holding)[2]
    x0, y0, x1, y1 = face
    wide, high = x1 - x0, y1 - y0
    return (
        max(0.0, x0 - 0.5 * wide),
        max(0.0, y0 - 0.3 * high),
        min(1.0, x1 + 0.5 * wide),
        min(1.0, y1 + high),
    )


def _face(match: Match, mask: NDArray[np.bool_]) -> Face:
    return Face(
        identity=match.identity,
        box=stored(match.face.box_xyxy01),
        landmarks=_numbers(match.face.landmarks_xy01),
        person=Image.from_array(np.where(mask, np.uint8(255), np.uint8(0))),
        score=round(match.score, 4),
        similarity=round(match.cosine, 4),
    )


def _numbers(values: NDArray[np.floating]) -> tuple[float, ...]:
    return tuple(round(float(v), 4) for v in np.ravel(values))
