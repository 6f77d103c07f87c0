"""Held-out figures of a zero-shot detector: average precision, and boxes for what is not there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap, proportion
from insitu.perception.detector import Box, Detection, ZeroShotDetector, iou
from insitu.world.captions import article

KINDS = (*world.CATEGORIES, "person", "face")
QUERIES = tuple(article(kind) for kind in KINDS)
"""One query for each kind of thing: the 18 categories, "a person" and "a face"."""

MIN_VISIBLE = 1 / 3  # of a thing's own silhouette; less is neither asked for nor counted wrong
MIN_FACE = 0.5  # of a face's box that its person's visible pixels fill
MIN_IOU = 0.5
FLOOR = 0.02  # lowest score that enters average precision


@dataclass(frozen=True, kw_only=True)
class Target:
    """One thing or face to be found, and the category query that asks for it."""

    query: str
    thing: world.Thing
    box_xyxy01: Box
    visible: bool


@dataclass(frozen=True, kw_only=True)
class Case:
    """One picture with everything that is in it."""

    image: NDArray[np.uint8]
    scene: world.Scene
    targets: tuple[Target, ...]


def targets(scene: world.Scene, rendering: world.Rendering) -> list[Target]:
    """Everything the scene holds: each thing, and the face of each person."""
    found = []
    for seen in rendering.things:
        category = "person" if isinstance(seen.thing, world.Person) else seen.thing.category
        found.append(
            Target(
                query=article(category),
                thing=seen.thing,
                box_xyxy01=seen.box_xyxy01,
                visible=seen.visible >= MIN_VISIBLE and bool(seen.mask.any()),
            )
        )
        if seen.face_box_xyxy01 is not None:
            found.append(
                Target(
                    query="a face",
                    thing=seen.thing,
                    box_xyxy01=seen.face_box_xyxy01,
                    visible=_filled(seen.mask, seen.face_box_xyxy01) >= MIN_FACE,
                )
            )
    return found


def _filled(mask: NDArray[np.bool_], box: Box) -> float:
    height, width = mask.shape
    left, top, right, bottom = np.rint(np.array(box) * (width, height, width, height)).astype(int)
    inside = mask[top:bottom, left:right]
    return float(inside.mean()) if inside.size else 0.0


def held_out(count: int, seed: int = 0, *, key: str = "held-out") -> list[Case]:
    """Return scenes of one to four things in turn, a third of them people only."""
    cases = []
    for i in range(count):
        rng = world.rng_for(key, "detector", seed, i)
        people = True if i % 3 == 0 else None
        scene = world.sample_scene(rng, count=i % 4 + 1, people=people)
        rendering = world.render(scene)
        cases.append(
            Case(image=rendering.image, scene=scene, targets=tuple(targets(scene, rendering)))
        )
    return cases


def assign(case: Case, detections: Sequence[Detection]) -> list[int | None]:
    """Match detections, best first, to the case's targets at IoU 0.5 of the same query.

    Returns:
        The target's index for each detection; None where there is no target left for it.
    """
    taken: set[int] = set()
    result: list[int | None] = []
    for detection in detections:
        box = torch.tensor([detection.box_xyxy01])
        best, best_iou = None, MIN_IOU
        for index, target in enumerate(case.targets):
            if target.query == detection.query and index not in taken:
                overlap = float(iou(box, torch.tensor([target.box_xyxy01])))
                if overlap >= best_iou:
                    best, best_iou = index, overlap
        if best is not None:
            taken.add(best)
        result.append(best)
    return result


def right_boxes(case: Case, detections: Sequence[Detection]) -> list[bool]:
    """Which detections, best first, find a visible target of their query."""
    return [i is not None and case.targets[i].visible for i in assign(case, detections)]


@dataclass(frozen=True, kw_only=True)
class _Scored:
    """All detections of all cases, best first; those of hidden targets are left out."""

    case: NDArray[np.int64]
    kind: NDArray[np.int64]
    score: NDArray[np.float64]
    hit: NDArray[np.bool_]
    wanted: NDArray[np.int64]  # [cases, kinds]: visible targets

    def mean_average_precision(self, cases: NDArray[np.float64]) -> float:
        """Mean over kinds of the area under the precision-recall curve of some cases."""
        weight = np.bincount(cases.astype(int), minlength=len(self.wanted))
        wanted = weight @ self.wanted
        areas = []
        for kind in np.flatnonzero(wanted):
            own = self.kind == kind
            share = weight[self.case[own]]
            found = np.cumsum(share * self.hit[own])
            answered = np.cumsum(share)
            precision = found / np.maximum(answered, 1)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            areas.append(float((envelope * share * self.hit[own]).sum() / wanted[kind]))
        return float(np.mean(areas))


def _score(detector: ZeroShotDetector, cases: Sequence[Case]) -> _Scored:
    found = detector.detect([case.image for case in cases], QUERIES, threshold=FLOOR)
    rows = []
    wanted = np.zeros((len(cases), len(QUERIES)), np.int64)
    for number, (case, detections) in enumerate(zip(cases, found, strict=True)):
        for target in case.targets:
            wanted[number, QUERIES.index(target.query)] += target.visible
        for detection, index in zip(detections, assign(case, detections), strict=True):
            if index is None or case.targets[index].visible:
                kind = QUERIES.index(detection.query)
                rows.append((number, kind, detection.score, index is not None))
    table = np.array(sorted(rows, key=lambda row: -row[2])).reshape(-1, 4)
    return _Scored(
        case=table[:, 0].astype(np.int64),
        kind=table[:, 1].astype(np.int64),
        score=table[:, 2],
        hit=table[:, 3].astype(bool),
        wanted=wanted,
    )


def pick_threshold(detector: ZeroShotDetector, *, count: int = 200) -> float:
    """Return the score, in hundredths, with the best F1 on scenes that no figure uses."""
    scored = _score(detector, held_out(count, key="tuning"))
    wanted = scored.wanted.sum()
    choices = [k / 100 for k in range(5, 95)]

    def f1(threshold: float) -> float:
        kept = scored.score > threshold
        return float(2 * scored.hit[kept].sum() / (kept.sum() + wanted))

    return max(choices, key=f1)


def figures(
    path: str | Path, *, count: int = 300, seed: int = 0, threshold: float | None = None
) -> dict[str, Figure]:
    """Measure a zero-shot detector on `count` held-out scenes.

    Args:
        threshold: score above which a box counts; by default the card's own.

    Raises:
        ValueError: no box at all exceeds the threshold; there is no precision then.

    Returns:
        `map50`: mean average precision at IoU 0.5 over 20 category queries. At the threshold:
        `precision`, `recall`, and `false_absent`, the share of queries for absent categories that
        get a box. `colour_choice`: share of subjects for which, of the queries for its category
        in each of 12 colours, its own colour scores highest there.
    """
    detector = ZeroShotDetector.from_pretrained(path)
    threshold = _card_threshold(Path(path)) if threshold is None else threshold
    cases = held_out(count, seed)
    scored = _score(detector, cases)
    kept = scored.score > threshold
    hits = int(scored.hit[kept].sum())
    fired = np.zeros(scored.wanted.shape, bool)
    fired[scored.case[kept], scored.kind[kept]] = True
    absent = np.ones(scored.wanted.shape, bool)
    for number, case in enumerate(cases):
        absent[number, [QUERIES.index(target.query) for target in case.targets]] = False
    missed = int(scored.wanted.sum()) - hits
    return {
        "map50": bootstrap(np.arange(count), scored.mean_average_precision),
        "precision": proportion(scored.hit[kept].tolist()),
        "recall": proportion([True] * hits + [False] * missed),
        "false_absent": proportion(fired[absent].tolist()),
        "colour_choice": proportion(_colour_choices(detector, cases)),
    }


def _card_threshold(folder: Path) -> float:
    card = json.loads((folder / "card.json").read_text())
    return float(card["settings"]["threshold"])


def _colour_choices(detector: ZeroShotDetector, cases: Sequence[Case]) -> list[bool]:
    """One visible subject of each coloured case: is its own colour's query the strongest?"""
    hits = []
    for case in cases:
        shown = [t for t in case.targets if t.visible and isinstance(t.thing, world.Subject)]
        if not shown or case.scene.style == "line art":
            continue
        target = shown[0]
        assert isinstance(target.thing, world.Subject)
        queries = [article(f"{colour} {target.thing.category}") for colour in world.COLOURS]
        (found,) = detector.detect([case.image], queries, threshold=0.0)
        here = torch.tensor([target.box_xyxy01])
        there = [d for d in found if float(iou(here, torch.tensor([d.box_xyxy01]))) >= MIN_IOU]
        own = article(f"{target.thing.colour} {target.thing.category}")
        hits.append(bool(there) and there[0].query == own)
    return hits
