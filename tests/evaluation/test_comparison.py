"""Proves that intervals of nested cases cover as they should, against simulation and numpy.

Needs no checkpoint.
"""

import numpy as np
import pytest

from insitu.evaluation.comparison import compare, nested_mean


def make_scores(rng: np.random.Generator, shift: float, subjects: int = 6) -> np.ndarray:
    shape = (subjects, 5, 4)
    return (
        shift
        + rng.normal(0, 1.0, (subjects, 1, 1))
        + rng.normal(0, 0.5, (*shape[:2], 1))
        + rng.normal(0, 0.3, shape)
    )


def test_means_are_plain_means_and_pairs_cancel_what_they_share() -> None:
    rng = np.random.default_rng(0)
    second = make_scores(rng, 0.0)
    first = second + 0.2 + rng.normal(0, 0.01, second.shape)
    result = compare(first, second)
    assert result.first.value == pytest.approx(first.mean())
    assert result.difference.value == pytest.approx((first - second).mean())
    assert result.difference.high - result.difference.low < 0.02
    assert result.first.high - result.first.low > 0.5
    assert result.difference.low > 0 > compare(second, first).difference.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Subjects are drawn from a population with mean 0; a case-wise bootstrap would cover 30%."""
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        figure = compare(make_scores(rng, 0.0, 12), np.zeros((12, 5, 4)), seed=trial).first
        covered += figure.low <= 0 <= figure.high
    assert 50 <= covered <= 60


def test_a_score_that_is_none_is_refused() -> None:
    """A failed case has its metric's worst value before it is compared."""
    scores = np.full((2, 2, 2), 0.8)
    failed = scores.copy()
    failed[1, 1, 1] = np.nan
    with pytest.raises(ValueError, match="no finite scores"):
        compare(scores, failed)
    with pytest.raises(ValueError, match="no finite scores"):
        compare(scores[:0], scores[:0])
    with pytest.raises(ValueError, match="do not pair"):
        compare(scores, scores[:1])


def test_one_ways_mean_has_the_same_interval_alone() -> None:
    scores = make_scores(np.random.default_rng(0), 0.0)
    alone, first = nested_mean(scores), compare(scores, 0 * scores).first
    assert (alone.value, alone.low, alone.high) == pytest.approx(
        (first.value, first.low, first.high)
    )
    with pytest.raises(ValueError, match="no finite scores"):
        nested_mean(scores[0])
