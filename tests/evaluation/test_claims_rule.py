"""Proves the rule by which claims are decided: against scipy's tests where there is one, by
simulated studies of known truth where there is none, and by verdicts of plain cases.

Needs no model.
"""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from insitu.evaluation.claims.rule import (
    Comparison,
    Difference,
    decide,
    difference,
    holm,
    raw,
)


def found(value: float, error: float, freedom: float = 30) -> Difference:
    return Difference(
        first=value, second=0.0, value=value, error=error, freedom=freedom, replicates=3,
        requests=40,
    )  # fmt: skip


def test_one_training_is_a_paired_t_test_over_requests() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.3, 1, (1, 40)), rng.normal(0, 1, (1, 40))
    own, theirs = difference(first, second), stats.ttest_rel(first[0], second[0])
    assert own.freedom == pytest.approx(39)
    assert 2 * min(own.above(0), own.below(0)) == pytest.approx(theirs.pvalue)
    low, high = theirs.confidence_interval(0.95)
    assert own.interval(0.05) == pytest.approx((low, high))


def test_requests_of_their_own_are_a_paired_t_test_over_trainings() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.3, 1, (6, 12)), rng.normal(0, 1, (6, 12))
    own = difference(first, second, nested=True)
    theirs = stats.ttest_rel(first.mean(1), second.mean(1))
    assert 2 * min(own.above(0), own.below(0)) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(
    ("of_trainings", "of_requests", "at_most"),
    [(0.0, 1.0, 0.06), (0.1, 1.0, 0.06), (0.2, 1.0, 0.07), (0.0, 0.0, 0.04), (0.5, 1.0, 0.1)],
)
def test_intervals_miss_the_truth_about_as_often_as_they_say(
    of_trainings: float, of_requests: float, at_most: float
) -> None:
    """Three trainings with 48 requests; the last case, in which trainings differ much more than
    requests do, is where three are too few to tell.
    """
    rng, missed, studies = np.random.default_rng(2), 0, 1500
    for _ in range(studies):
        d = rng.normal(0, of_trainings, (3, 1)) + rng.normal(0, of_requests, (1, 48))
        d = d + rng.normal(0, 1, (3, 48))
        low, high = difference(d, np.zeros_like(d)).interval(0.05)
        missed += not low <= 0 <= high
    assert missed / studies <= at_most


def test_trainings_that_differ_widen_the_interval_beyond_that_of_requests() -> None:
    rng = np.random.default_rng(3)
    same = np.repeat(rng.normal(0, 1, (1, 200)), 3, axis=0)
    apart = same + np.array([[-0.5], [0.0], [0.5]])
    zero = np.zeros_like(same)
    assert difference(apart, zero).error > 2 * difference(same, zero).error
    assert difference(apart, zero).freedom < 4


def test_scores_that_do_not_pair_or_show_no_spread_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        difference(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="no number"):
        difference(np.array([[1.0, np.nan]]), np.zeros((1, 2)))
    with pytest.raises(ValueError, match="no spread"):
        difference(np.zeros((1, 1)), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="no spread"):
        difference(np.zeros((1, 9)), np.zeros((1, 9)), nested=True)


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.10, 0.01, "holds"),
        (-0.10, 0.01, "contradicted"),
        (0.00, 0.005, "contradicted"),  # all that counts is excluded
        (0.00, 0.05, "undecided"),
        (0.04, 0.01, "undecided"),  # above 0 for sure, and less than what counts, but not for sure
        (0.02, 0.002, "contradicted"),  # there, and too small to count
        (0.04, 0.002, "contradicted"),  # the same, and further from 0 than from what counts
    ],
)
def test_verdicts(value: float, error: float, verdict: str) -> None:
    claims = {"a": [Comparison.effect(found(value, error), 0.05)]}
    assert decide(claims, level=0.05)["a"].verdict == verdict


def test_less_may_be_claimed_and_a_margin() -> None:
    less = Comparison.effect(found(-0.10, 0.01), -0.05)
    assert decide({"a": [less]}, level=0.05)["a"].verdict == "holds"
    near = Comparison.margin(found(-0.01, 0.005), 0.03)
    assert decide({"a": [near]}, level=0.05)["a"].verdict == "holds"
    far = Comparison.margin(found(-0.10, 0.01), 0.03)
    assert decide({"a": [far]}, level=0.05)["a"].verdict == "contradicted"


def test_all_comparisons_of_a_claim_have_to_be_so() -> None:
    good = Comparison.effect(found(0.10, 0.01), 0.05)
    open_one = Comparison.effect(found(0.05, 0.05), 0.05)
    bad = Comparison.effect(found(-0.10, 0.01), 0.05)
    verdicts = decide({"a": [good, good], "b": [good, open_one], "c": [good, bad]}, level=0.05)
    assert [verdicts[name].verdict for name in "abc"] == ["holds", "undecided", "contradicted"]


def test_more_claims_of_a_paper_ask_for_more() -> None:
    edge = Comparison.effect(found(0.10, 0.04), 0.05)
    assert decide({"a": [edge]}, level=0.05)["a"].verdict == "holds"
    many = decide({"a": [edge]}, level=0.05, others={f"o{n}": 1.0 for n in range(9)})
    assert many["a"].verdict == "undecided"
    decided = {f"o{n}": 1e-9 for n in range(9)}  # those come first, and leave the level to it
    assert decide({"a": [edge]}, level=0.05, others=decided)["a"].verdict == "holds"


def test_some_claims_are_judged_as_all_are() -> None:
    claims = {
        name: [Comparison.effect(found(value, 0.02), 0.05)]
        for name, value in (("a", 0.10), ("b", 0.07), ("c", 0.0), ("d", -0.03))
    }
    every, p = decide(claims, level=0.05), raw(claims)
    for name in claims:
        rest = {other: p[other] for other in claims if other != name}
        assert decide({name: claims[name]}, level=0.05, others=rest)[name] == every[name]


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_what_its_definition_says(values: dict[str, float]) -> None:
    """The greatest level at which each is not rejected, one after the other."""
    adjusted, order = holm(values), sorted(values, key=lambda name: values[name])
    for place, name in enumerate(order):
        stepwise = max((len(values) - k) * values[order[k]] for k in range(place + 1))
        assert adjusted[name] == pytest.approx(min(1.0, stepwise))
        assert values[name] <= adjusted[name] <= 1


def test_power_and_size_agree() -> None:
    """With as many times more as is told the power is what was asked for."""
    for freedom in (2.0, 40.0, 1e6):
        small = Comparison.effect(found(0.01, 0.03, freedom), 0.05)
        times = small.factor(0.025, 0.8)
        larger = found(0.01, 0.03 / math.sqrt(times), freedom * times)
        assert small.power(0.025) < 0.8 and times > 1
        assert Comparison.effect(larger, 0.05).power(0.025) == pytest.approx(0.8, abs=1e-3)


def test_scores_without_any_spread_decide_by_their_difference() -> None:
    alike = difference(np.full((3, 9), 0.2), np.zeros((3, 9)))
    assert alike.error == pytest.approx(0, abs=1e-12)
    assert decide({"a": [Comparison.effect(alike, 0.05)]}, level=0.05)["a"].verdict == "holds"
    nothing = difference(np.zeros((3, 9)), np.zeros((3, 9)))
    verdict = decide({"a": [Comparison.effect(nothing, 0.05)]}, level=0.05)["a"].verdict
    assert verdict == "contradicted"
