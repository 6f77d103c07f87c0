"""Proves that BoundID's filters refuse in order, at their thresholds and not before. Needs
nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from insitu.perception.detector import Detection
from insitu.records import Box
from insitu.records.engines import Detections, Finding
from insitu.synthesis import bank, boundid
from insitu.synthesis.boundid import FILTERS, Thresholds, refuse
from insitu.synthesis.generators import WorldGenerator
from tests.synthesis.some_pairs import NOTHING, Corners, records

SOUND = Finding(box=Box(x0=0, y0=0, x1=0.5, y1=1), detection=0.5, similarity=0.5, covered=0.0)
ASKED = Thresholds(detection=0.5, identity=0.5, hidden=0.5, quality=2.0)


def seen(*findings: Finding, quality: float = 2.0) -> Detections:
    return Detections(id="a", findings=findings, quality=quality, lineage=NOTHING)


def under(threshold: float) -> float:
    return float(np.nextafter(threshold, 0))


def test_a_score_that_equals_its_threshold_passes_and_the_next_lower_one_does_not() -> None:
    assert refuse(seen(SOUND, SOUND), ASKED) is None
    bad: dict[str, Detections] = {
        FILTERS[0]: seen(SOUND, replace(SOUND, detection=under(0.5))),
        FILTERS[1]: seen(SOUND, replace(SOUND, similarity=under(0.5))),
        FILTERS[2]: seen(SOUND, quality=under(2.0)),
    }
    for name, found in bad.items():
        verdict = refuse(found, ASKED)
        assert verdict is not None and verdict[0] == name


def test_the_first_filter_in_order_refuses_and_says_why() -> None:
    nowhere = Finding(box=None, detection=0.0, similarity=0.0, covered=0.0)
    unlike = replace(SOUND, similarity=0.25)
    assert refuse(seen(SOUND, nowhere, quality=0.0), ASKED) == (
        FILTERS[0], 0.0, "identity 2 scores 0.000 < 0.5"
    )  # fmt: skip
    assert refuse(seen(unlike, SOUND, quality=0.0), ASKED) == (
        FILTERS[1], 0.25, "similarity 0.250 < 0.5"
    )  # fmt: skip
    assert refuse(seen(SOUND, quality=1.5), ASKED) == (FILTERS[2], 1.5, "quality 1.50 < 2")


def test_less_likeness_is_asked_of_what_others_cover() -> None:
    half_hidden = replace(SOUND, similarity=0.25, covered=0.5)
    assert refuse(seen(SOUND, half_hidden), ASKED) is None
    assert refuse(seen(SOUND, replace(half_hidden, covered=0.49)), ASKED) is not None


@dataclass
class Fixed:
    """A detector, and a judge, that say the same of every picture."""

    box: Corners

    def detect(
        self, images: Sequence[Any], queries: Sequence[str], *, threshold: float
    ) -> list[list[Detection]]:
        found = [Detection(query=q, score=0.5, box_xyxy01=self.box) for q in queries]
        return [found for _ in images]

    def same(self, found: Sequence[Any], *others: Any) -> list[float]:
        return [0.5] * len(found)

    def quality(self, images: Sequence[Any]) -> list[float]:
        return [3.0] * len(images)


def test_a_box_thinner_than_what_is_kept_of_it_spoils_no_row() -> None:
    own = bank.WorldBank(identities=4, size=32, seed=0, shares=(0.0, 0.0))
    generator = WorldGenerator(size=32, rates={}, degraded=0.0)
    (candidate,) = records(boundid.Candidates(generator)(list(bank.pairs(own, [0], seed=0))))
    thin: Any = Fixed((0.5, 0.1, 0.50001, 0.9))
    worker = boundid.Detector(detector=thin, judge=thin, names=("fixed",), floor=0.0)
    assert len(list(worker([candidate]))) == 1
