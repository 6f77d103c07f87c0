"""Proves that the gate lets through what is surely no worse, refuses what is worse or was not
measured, and that it counts cases as paired. From numbers alone.
"""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from insitu.errors import UserError
from insitu.evaluation.gate import Rule, decide
from insitu.evaluation.measurement import Measured, Measurement, measured


def scores(
    adapter: Any, base: Any = 0.0, *, higher: bool = True, benchmark: str = "a"
) -> Measurement:
    shape = (12, 2)
    values = [np.broadcast_to(np.asarray(v, float), shape).ravel() for v in (adapter, base)]
    return Measurement(
        benchmark={"name": benchmark},
        metrics={"m": measured(*values, higher_is_better=higher, seeds=2)},
    )


CASES = np.random.default_rng(1).normal(0.5, 0.2, (12, 2))
"""Cases differ by much more than adapters do."""


@pytest.mark.parametrize(
    ("candidate", "champion", "rule", "passed"),
    [
        (scores(CASES, CASES - 0.1), None, Rule(gain=0.0, margin=0.05), True),
        (scores(CASES, CASES - 0.1), None, Rule(gain=0.2, margin=0.05), False),
        (scores(CASES, CASES), None, Rule(gain=0.0, margin=0.05), False),
        (scores(CASES - 0.04), scores(CASES), Rule(gain=None, margin=0.05), True),
        (scores(CASES - 0.06), scores(CASES), Rule(gain=None, margin=0.05), False),
        (scores(CASES + 0.06), scores(CASES), Rule(gain=None, margin=0.0), True),
        (scores(CASES, CASES - 1), scores(CASES), Rule(gain=None, margin=None), True),
        # Where less is better.
        (scores(CASES + 0.06, higher=False), scores(CASES, higher=False),
         Rule(gain=None, margin=0.05), False),
        (scores(CASES - 0.1, CASES, higher=False), None, Rule(gain=0.05, margin=None), True),
    ],
)  # fmt: skip
def test_verdicts(
    candidate: Measurement, champion: Measurement | None, rule: Rule, passed: bool
) -> None:
    verdict = decide(candidate, champion, {"m": rule})
    assert verdict.passed is passed
    assert all(reason.startswith(("met: ", "not met: ")) for reason in verdict.reasons)


def test_the_same_mean_with_other_cases_is_not_surely_as_good() -> None:
    """As good on average, but not surely: cases are few, and differ."""
    other = np.random.default_rng(2).permutation(CASES.ravel()).reshape(CASES.shape)
    verdict = decide(scores(other), scores(CASES), {"m": Rule(gain=None, margin=0.05)})
    assert not verdict.passed and "more scenes or seeds would tell" in verdict.reasons[0]


@given(st.floats(-0.3, 0.3), st.floats(0, 0.2))
def test_of_paired_cases_the_difference_alone_counts(difference: float, margin: float) -> None:
    verdict = decide(
        scores(CASES + difference), scores(CASES), {"m": Rule(gain=None, margin=margin)}
    )
    if abs(difference + margin) > 1e-5:  # values are kept to six decimals
        assert verdict.passed is (difference > -margin)


def test_what_cannot_be_compared_is_refused() -> None:
    one = scores(CASES)
    with pytest.raises(UserError, match="other benchmarks"):
        decide(one, scores(CASES, benchmark="b"), {"m": Rule(gain=None, margin=0.1)})
    with pytest.raises(UserError, match="there are: m"):
        decide(one, None, {"other": Rule(gain=0.0, margin=None)})
    with pytest.raises(UserError, match="none of this version"):
        Measurement.read("{}", "of x")
    with pytest.raises(ValidationError, match="do not pair"):
        Measured(higher_is_better=True, adapter=((1.0, 2.0),), base=((1.0,),))
    assert Measurement.read(one.model_dump_json(), "") == one


def test_the_gate_loads_no_model_library() -> None:
    code = (
        "import sys, insitu.evaluation.gate;"
        " sys.exit(bool({'torch', 'diffusers', 'transformers'} & {*sys.modules}))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
