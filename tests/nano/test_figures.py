"""Proves the measuring of checkpoints: intervals, average precision, matching, the card.

Needs the world and fake detectors that answer from the truth; no network.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from insitu.evaluation.checkpoints import bootstrap, proportion
from insitu.evaluation.checkpoints import detector as measured
from insitu.evaluation.checkpoints.clip import _auc
from insitu.perception.detector import Detection
from recipe.card import write_card


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_wilson_interval_holds_the_share(hits: list[bool]) -> None:
    figure = proportion(hits)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.n == len(hits)


def test_wilson_interval_of_a_known_case() -> None:
    # Newcombe 1998, table I: 15 of 148 gives 0.0624 to 0.1605.
    figure = proportion([True] * 15 + [False] * 133)
    assert figure.low == pytest.approx(0.0624, abs=1e-4)
    assert figure.high == pytest.approx(0.1605, abs=1e-4)


def test_nothing_measured_is_an_error() -> None:
    with pytest.raises(ValueError, match="no cases"):
        proportion([])


def test_bootstrap_of_a_mean_matches_its_standard_error() -> None:
    cases = np.random.default_rng(0).normal(2, 1, 400)
    figure = bootstrap(cases)
    assert figure.value == pytest.approx(cases.mean())
    assert figure.high - figure.low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_auc() -> None:
    assert _auc(np.array([[2.0, 1.0], [3.0, 0.0]])) == 1.0
    assert _auc(np.array([[1.0, 1.0]])) == 0.5
    assert _auc(np.array([[0.0, 2.0], [3.0, 1.0]])) == 0.5


class Oracle:
    """Answers with the true boxes, `shift`ed, plus `extra` detections in every picture."""

    def __init__(
        self, cases: Sequence[measured.Case], *, shift: float = 0.0, extra: tuple[str, ...] = ()
    ) -> None:
        self.cases = {case.image.tobytes(): case for case in cases}
        self.shift, self.extra = shift, extra

    def detect(
        self, images: Sequence[np.ndarray], queries: Sequence[str], *, threshold: float
    ) -> list[list[Detection]]:
        answers = []
        for image in images:
            own = self.cases[image.tobytes()].targets
            found = [(t.query, 0.9, tuple(v + self.shift for v in t.box_xyxy01)) for t in own]
            found += [(query, 0.5, (0.0, 0.0, 1.0, 1.0)) for query in self.extra]
            answers.append(
                [
                    Detection(query=query, score=score, box_xyxy01=box)  # type: ignore[arg-type]
                    for query, score, box in found
                    if query in queries and score > threshold
                ]
            )
        return answers


def average_precision(oracle: Oracle, cases: Sequence[measured.Case]) -> float:
    scored = measured._score(oracle, cases)  # type: ignore[arg-type]
    return scored.mean_average_precision(np.arange(len(cases), dtype=float))


def test_average_precision_of_known_answers() -> None:
    cases = measured.held_out(12)
    assert average_precision(Oracle(cases), cases) == 1.0
    assert average_precision(Oracle(cases, shift=0.6), cases) == 0.0
    # Wrong boxes that rank below every right one leave the precision at full recall.
    assert average_precision(Oracle(cases, extra=("a mug",)), cases) == 1.0


def test_threshold_lies_between_right_and_wrong_scores() -> None:
    cases = measured.held_out(12, key="tuning")
    oracle = Oracle(cases, extra=measured.QUERIES)
    assert 0.5 <= measured.pick_threshold(oracle, count=12) < 0.9  # type: ignore[arg-type]


def test_second_box_for_one_thing_is_wrong() -> None:
    case = next(c for c in measured.held_out(8) if c.targets[0].visible)
    target = case.targets[0]
    twice = [
        Detection(query=target.query, score=s, box_xyxy01=target.box_xyxy01) for s in (0.9, 0.8)
    ]
    assert measured.right_boxes(case, twice[:1]) == [True]
    others = [t for t in case.targets[1:] if t.query == target.query]
    if not others:
        assert measured.right_boxes(case, twice) == [True, False]


def test_card_is_deterministic_and_rendered(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    save_file({"w": torch.zeros(4)}, folder / "model.safetensors")
    texts = []
    for _ in range(2):
        write_card(
            folder,
            model_class="CLIPModel",
            data="Drawings.",
            steps={"first": 10, "second": 5},
            seconds=120,
            figures={"category": proportion([True] * 9 + [False])},
            headline="category",
            limits=["Small."],
            failures=["Rare."],
            recipe="python -m recipe.clip",
        )
        texts.append((folder / "card.json").read_bytes())
    assert texts[0] == texts[1]
    card = json.loads(texts[0])
    assert card["headline"]["name"] == "category"
    assert card["headline"]["value"] == 0.9
    assert card["training_minutes"] == 2.0
    readme = (folder / "README.md").read_text()
    assert "| category | 0.900 |" in readme
    assert "first 10, second 5" in readme
