"""BoundID: what is found of each identity in a candidate, the filters A, B, C, and the row.

Inpaint-Anywhere, section "BoundID": (A) all identities detected and boxed; (B) the identity in the
box is the reference identity; (C) aesthetically good. Models speak once, in `Detector`; filters
only compare what they said with thresholds, so that another threshold costs no model.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.detector import Detection, ZeroShotDetector
from insitu.records import Image
from insitu.records.engines import (
    BoundId,
    Candidate,
    Detections,
    Finding,
    Lineage,
    Pair,
    PlantedFault,
)
from insitu.synthesis.boxes import blank, covered, enlarge, overlap, stored
from insitu.synthesis.generators import PairGenerator
from insitu.synthesis.judging import Judge, View
from insitu.synthesis.lineage import source
from insitu.synthesis.runner import Verdict

Pixels = NDArray[np.uint8]
PROPOSALS = 3
"""Boxes of each identity's category that are looked at; the fourth best is hardly ever it."""
SAME_PLACE = 0.7
"""Two boxes with a larger IoU are one place, which two identities cannot share."""
FILTERS = ("A detected", "B identity", "C quality")
SPOILT: tuple[str, ...] = tuple(dict.fromkeys(("blur", "clutter", *world.DEGRADATIONS)))
CROPPED = "bad crop"
NOT_THIS: tuple[str, ...] = ("wrong identity", "swapped attributes")


class Candidates:
    """Draws pairs."""

    def __init__(self, generator: PairGenerator) -> None:
        self._generator = generator

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Verdict[Candidate]]:
        for pair, drawn in zip(pairs, self._generator.draw(pairs), strict=True):
            yield Verdict(
                record=Candidate(
                    id=pair.id,
                    references=pair.references,
                    prompt=pair.prompt,
                    split=pair.split,
                    image=Image.from_array(drawn.image),
                    faults=drawn.faults,
                    lineage=Lineage(
                        sources=(source(pair), *pair.lineage.sources),
                        models=(self._generator.name,),
                    ),
                )
            )


class Detector:
    """Says of each identity where it is, whether it is the one, and how good the picture is.

    Args:
        floor: least score of a box that is looked at; filter A's threshold is not under it.
    """

    def __init__(
        self, *, detector: ZeroShotDetector, judge: Judge, names: Sequence[str], floor: float
    ) -> None:
        self._detector, self._judge, self._names = detector, judge, tuple(names)
        self._floor = floor

    def __call__(self, rows: Sequence[Candidate]) -> Iterator[Verdict[Detections]]:
        images = [row.image.array() for row in rows]
        places = self._places(rows, images)
        quality = self._judge.quality(images)
        for row, found, score in zip(rows, places, quality, strict=True):
            yield Verdict(
                record=Detections(
                    id=row.id,
                    findings=found,
                    quality=round(score, 4),
                    lineage=Lineage(sources=(source(row),), models=self._names),
                )
            )

    def _places(
        self, rows: Sequence[Candidate], images: Sequence[Pixels]
    ) -> list[tuple[Finding, ...]]:
        categories = sorted({r.category for row in rows for r in row.references})
        queries = {category: world.article(category) for category in categories}
        found = self._detector.detect(images, list(queries.values()), threshold=self._floor)
        proposals = [
            [
                [d for d in each if d.query == queries[reference.category]][:PROPOSALS]
                for reference in row.references
            ]
            for row, each in zip(rows, found, strict=True)
        ]
        # Every proposal of the batch is judged at once.
        asked = [
            (i, k, d) for i, own in enumerate(proposals) for k, ds in enumerate(own) for d in ds
        ]
        # A reference is decoded once, however many proposals it is compared with.
        known = [
            [
                [
                    View(image=picture.array(), box_xyxy01=box.xyxy01)
                    for picture, box in ((r.image, r.box), (r.other, r.other_box))
                ]
                for r in row.references
            ]
            for row in rows
        ]
        scores = self._judge.same(
            [View(image=images[i], box_xyxy01=d.box_xyxy01) for i, _, d in asked],
            [known[i][k] for i, k, _ in asked],
            [rows[i].references[k].category for i, k, _ in asked],
        )
        judged: list[list[list[_Place]]] = [[[] for _ in row.references] for row in rows]
        for (i, k, detection), score in zip(asked, scores, strict=True):
            judged[i][k].append(_Place(detection, score))
        return [_findings(assign(each)) for each in judged]


@dataclass(frozen=True)
class _Place:
    detection: Detection
    similarity: float


def assign(proposals: Sequence[Sequence[_Place]]) -> tuple[_Place | None, ...]:
    """A place for each identity, no two in one: the highest sum of score x (1 + similarity).

    Every choice is tried: with three proposals and four identities there are 256.
    """
    best: tuple[float, tuple[_Place | None, ...]] = (-1.0, ())
    for choice in itertools.product(*([None, *own] for own in proposals)):
        taken = [place for place in choice if place is not None]
        if any(
            overlap(a.detection.box_xyxy01, b.detection.box_xyxy01) > SAME_PLACE
            for a, b in itertools.combinations(taken, 2)
        ):
            continue
        value = sum(place.detection.score * (1 + place.similarity) for place in taken)
        if value > best[0]:
            best = (value, choice)
    return best[1]


def _findings(places: Sequence[_Place | None]) -> tuple[Finding, ...]:
    found = []
    for k, place in enumerate(places):
        if place is None:
            found.append(Finding(box=None, detection=0.0, similarity=0.0, covered=0.0))
            continue
        others = [p.detection.box_xyxy01 for j, p in enumerate(places) if p and j != k]
        found.append(
            Finding(
                box=stored(place.detection.box_xyxy01),
                detection=round(place.detection.score, 4),
                similarity=round(place.similarity, 4),
                covered=round(covered(place.detection.box_xyxy01, others), 4),
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What the filters ask for.

    Attributes:
        detection: A: the detector's score of every identity, at least.
        identity: B: the judge's similarity of every identity, at least; with `hidden`.
        hidden: B: how much less is asked of an identity that others cover wholly; in proportion.
        quality: C: the judge's score of the picture, at least.
    """

    detection: float
    identity: float
    hidden: float
    quality: float


def score_a(found: Detections) -> float:
    """Filter A's score: of the identity that was found worst."""
    return min(finding.detection for finding in found.findings)


def score_b(found: Detections, hidden: float) -> float:
    """Filter B's score: of the identity that is least like its reference.

    A box that others cover shows less of its identity, so less similarity is to be had.
    """
    return min(finding.similarity + hidden * finding.covered for finding in found.findings)


def refuse(found: Detections, asked: Thresholds) -> tuple[str, float, str] | None:
    """The first filter that refuses: its name, score and reason; None if all let it pass."""
    a, b, c = score_a(found), score_b(found, asked.hidden), found.quality
    if a < asked.detection:
        missing = [k for k, f in enumerate(found.findings) if f.detection < asked.detection]
        return FILTERS[0], a, f"identity {missing[0] + 1} scores {a:.3f} < {asked.detection:g}"
    if b < asked.identity:
        return FILTERS[1], b, f"similarity {b:.3f} < {asked.identity:g}"
    if c < asked.quality:
        return FILTERS[2], c, f"quality {c:.2f} < {asked.quality:g}"
    return None


class Filters:
    """Filters A, B, C, box growth and the masked picture."""

    def __init__(
        self,
        *,
        asked: Thresholds,
        growth: float,
        grow: Literal["side", "edge"],
        fill: int,
    ) -> None:
        self._asked, self._growth, self._grow, self._fill = asked, growth, grow, fill

    def __call__(self, rows: Sequence[tuple[Candidate, Detections]]) -> Iterator[Verdict[BoundId]]:
        for candidate, found in rows:
            record = self._row(candidate, found)
            refused = refuse(found, self._asked)
            if refused is None:
                yield Verdict(record=record)
            else:
                name, score, reason = refused
                yield Verdict(record=record, filter=name, score=score, reason=reason)

    def _row(self, candidate: Candidate, found: Detections) -> BoundId:
        boxes = tuple(
            None if f.box is None else enlarge(f.box, self._growth, self._grow)
            for f in found.findings
        )
        image = candidate.image.array()
        return BoundId(
            id=candidate.id,
            image=candidate.image,
            masked=Image.from_array(blank(image, [b for b in boxes if b], self._fill)),
            references=candidate.references,
            boxes=boxes,
            found=tuple(f.box for f in found.findings),
            prompt=candidate.prompt,
            split=candidate.split,
            findings=found.findings,
            quality=found.quality,
            faults=candidate.faults,
            lineage=Lineage(
                sources=(source(candidate), source(found), *candidate.lineage.sources),
                models=(*candidate.lineage.models, *found.lineage.models),
            ),
        )


def has_fault(faults: Sequence[PlantedFault], kinds: Sequence[str]) -> bool:
    """Whether one of these kinds of fault was planted."""
    return any(fault.kind in kinds for fault in faults)
