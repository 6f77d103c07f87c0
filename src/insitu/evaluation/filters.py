"""How well filters A, B and C catch what was planted: precision, recall, what they cost.

Thresholds are chosen on one half of the cases and reported on the other; a case's half follows from
its id, so that it stays where it is when cases are added.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.checkpoints import Figure, proportion
from insitu.randomness import rng_for
from insitu.records.engines import Candidate, Detections, PlantedFault
from insitu.synthesis.boundid import (
    CROPPED,
    FILTERS,
    NOT_THIS,
    SPOILT,
    has_fault,
    score_a,
    score_b,
)

Values = NDArray[np.float64]
Flags = NDArray[np.bool_]
WANTED_RECALL = {FILTERS[0]: 0.98, FILTERS[2]: 0.95}
"""A and C are to catch this share of what was planted, at the least cost; of A .95 is asked, of C
.9, and what is chosen on one half may be a little worse on the other."""
WANTED_PRECISION = 0.93
"""B is to catch as much as it can while this share of what it refuses is wrong (.9 is asked)."""


@dataclass(frozen=True, kw_only=True)
class Cases:
    """What one filter is measured on: scores [N], lower = refused; truth [N], True = planted."""

    scores: Values
    planted: Flags
    chosen_on: Flags

    def half(self, choosing: bool) -> "Cases":
        """The cases that thresholds are chosen on, or those that they are reported on."""
        rows = self.chosen_on == choosing
        return Cases(
            scores=self.scores[rows], planted=self.planted[rows], chosen_on=self.chosen_on[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A filter at a threshold.

    Attributes:
        precision: of what it refuses, the share with the fault.
        recall: of what has the fault, the share that it refuses.
        cost: of what has it not, the share that it refuses all the same.
    """

    threshold: float
    precision: Figure | None
    recall: Figure | None
    cost: Figure | None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A candidate whose faults are known, and what models say of it; without its pictures."""

    id: str
    faults: tuple[PlantedFault, ...]
    found: Detections


def judged(rows: Iterable[tuple[Candidate, Detections]]) -> list[Judged]:
    """The candidates whose faults are known."""
    return [
        Judged(id=candidate.id, faults=candidate.faults, found=found)
        for candidate, found in rows
        if candidate.faults is not None
    ]


def cases(known: Sequence[Judged], *, detection: float, hidden: float) -> dict[str, Cases]:
    """What each filter is measured on, by its name.

    A: all, planted = an identity is missing. B: those that passed A and are whole and unspoilt,
    planted = an identity is not the reference's (or took another's look); "on spoilt pictures too"
    is the same with pictures in which it can hardly be told. C: all, planted = the picture is
    spoilt; one that is only badly cropped is not (see `kinds`).
    """
    half = np.array([rng_for("filters", case.id).random() < 0.5 for case in known], bool)
    a = np.array([score_a(case.found) for case in known])
    b = np.array([score_b(case.found, hidden) for case in known])
    c = np.array([case.found.quality for case in known])

    def planted(*kinds: str) -> Flags:
        return np.array([has_fault(case.faults, kinds) for case in known], bool)

    missing, other, spoilt = planted("missing"), planted(*NOT_THIS), planted(*SPOILT)
    seen = (a >= detection) & ~missing
    clear = seen & ~spoilt & ~planted(CROPPED)
    return {
        FILTERS[0]: Cases(scores=a, planted=missing, chosen_on=half),
        FILTERS[1]: Cases(scores=b[clear], planted=other[clear], chosen_on=half[clear]),
        f"{FILTERS[1]}, on spoilt pictures too": Cases(
            scores=b[seen], planted=other[seen], chosen_on=half[seen]
        ),
        FILTERS[2]: Cases(scores=c, planted=spoilt, chosen_on=half),
    }


def kinds(known: Sequence[Judged], quality: float) -> dict[str, Figure]:
    """Filter C's recall for each kind of spoilt picture, over all cases."""
    found: dict[str, list[bool]] = {}
    for case in known:
        for fault in case.faults:
            if fault.kind in (*SPOILT, CROPPED):
                found.setdefault(fault.kind, []).append(case.found.quality < quality)
    return {kind: proportion(hits) for kind, hits in sorted(found.items())}


def measure(cases: Cases, threshold: float) -> Quality:
    """A filter's figures at a threshold, with Wilson intervals; None where there is no case."""
    refused = cases.scores < threshold

    def share(hits: Flags) -> Figure | None:
        return proportion(hits) if len(hits) else None

    return Quality(
        threshold=threshold,
        precision=share(cases.planted[refused]),
        recall=share(refused[cases.planted]),
        cost=share(refused[~cases.planted]),
    )


def curve(cases: Cases) -> tuple[Values, Values, Values]:
    """Thresholds [T], precision [T] and recall [T], a step for each distinct score."""
    order = np.argsort(cases.scores, kind="stable")
    thresholds = np.unique(cases.scores)[1:]
    refused = np.searchsorted(cases.scores[order], thresholds, side="left")
    hits = np.concatenate([[0], np.cumsum(cases.planted[order])])[refused]
    return thresholds, hits / refused, hits / max(1, cases.planted.sum())


def choose(cases: Cases, *, recall: float | None = None, precision: float | None = None) -> float:
    """A threshold by a rule: the least that has `recall`, or the most recall at `precision`.

    Raises:
        ValueError: no threshold does it, or not exactly one rule is given.
    """
    thresholds, precisions, recalls = curve(cases)
    if (recall is None) == (precision is None):
        raise ValueError("one rule is needed: recall or precision")
    if recall is not None:
        good = thresholds[recalls >= recall]
        if good.size:
            return float(good.min())
    elif precision is not None:
        # At a few refusals precision is chance: from the side of many, the first that has it.
        good = thresholds[precisions >= precision]
        if good.size:
            return float(good.max())
    raise ValueError("no threshold reaches what the rule asks for")


def suggested(measured: dict[str, Cases]) -> dict[str, float | None]:
    """Each filter's threshold by its rule on the choosing half; None where none does it."""
    found: dict[str, float | None] = {}
    for name in FILTERS:
        rule = (
            {"recall": WANTED_RECALL[name]}
            if name in WANTED_RECALL
            else {"precision": WANTED_PRECISION}
        )
        try:
            found[name] = choose(measured[name].half(True), **rule)
        except ValueError:
            found[name] = None
    return found
