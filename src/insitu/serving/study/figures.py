"""What votes say: shares of preference, agreement between voters, and whether shuffling worked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.checkpoints import Figure, proportion

RESAMPLES = 4000
NONE = -1
"""No answer."""
SURPRISING = 3.0
"""Standard deviations of a mean position from which on shuffling is doubted: 1 time in 370."""


@dataclass(frozen=True, kw_only=True)
class Preferences:
    """Of one question, with 95% intervals.

    Attributes:
        shares: of each category, in order; they add up to 1.
        leads: of the first category over each other.
    """

    shares: tuple[Figure, ...]
    leads: tuple[Figure, ...]


def preferences(chosen_VI: NDArray[np.int64], categories: int, *, seed: int = 0) -> Preferences:
    """Shares of answers, with intervals by the pigeonhole bootstrap (A. B. Owen, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1(2), 2007, 386-411).

    Votes of one voter are alike, and so are votes on one item. So voters and items are both drawn
    anew, with replacement and independently; a vote counts as often as its voter was drawn times
    as often as its item was. Missing answers need nothing else. The interval runs from the 2.5th
    to the 97.5th percentile. Where all votes are the same, nothing varies: then it is Wilson's,
    with as many cases as there are voters or items, whichever are fewer.

    Args:
        chosen_VI: the category that each voter chose of each item, or NONE. [V, I]

    Raises:
        ValueError: there is no answer.
    """
    answered_VI = chosen_VI != NONE
    chosen_VI = chosen_VI[answered_VI.any(1)][:, answered_VI.any(0)]
    if not chosen_VI.size:
        raise ValueError("no answers")
    voters, items = chosen_VI.shape
    hot_KVI = (chosen_VI == np.arange(categories)[:, None, None]).astype(np.float64)
    count_K = hot_KVI.sum((1, 2))
    rng = np.random.default_rng(seed)
    voters_BV = rng.multinomial(voters, np.full(voters, 1 / voters), RESAMPLES)
    items_BI = rng.multinomial(items, np.full(items, 1 / items), RESAMPLES)
    counts_KB = np.stack([((voters_BV @ hot_VI) * items_BI).sum(1) for hot_VI in hot_KVI])
    # Where few voters answered few items, a draw may hit none of their answers.
    counts_KB = counts_KB[:, counts_KB.sum(0) > 0]
    shares_KB = counts_KB / counts_KB.sum(0)
    share_K, n = count_K / count_K.sum(), int(count_K.sum())
    spread = 1 - proportion([True] * min(voters, items)).low

    def figure(value: float, drawn_B: NDArray[np.float64], least: float) -> Figure:
        low, high = np.percentile(drawn_B, [2.5, 97.5])
        if drawn_B.min() == drawn_B.max():
            low, high = max(least, value - spread), min(1.0, value + spread)
        return Figure(value=float(value), low=float(low), high=float(high), n=n)

    shares, drawn = share_K, shares_KB
    return Preferences(
        shares=tuple(figure(shares[k], drawn[k], 0.0) for k in range(categories)),
        leads=tuple(
            figure(shares[0] - shares[k], drawn[0] - drawn[k], -1.0) for k in range(1, categories)
        ),
    )


def agreement(chosen_VI: NDArray[np.int64]) -> float | None:
    """Krippendorff's alpha for nominal values (K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability", 2011): 1 is perfect agreement, 0 that of chance, less is systematic
    disagreement. Missing answers are allowed.

        alpha = 1 - D_o / D_e
        D_o = 1/n sum_u 1/(m_u - 1) sum_{c != k} n_uc n_uk
        D_e = 1/(n (n - 1)) sum_{c != k} n_c n_k

    where n_uc is how many voters gave item u the value c, m_u = sum_c n_uc, n_c = sum_u n_uc and
    n = sum_c n_c, over items with at least two answers. The sum over c != k of n_c n_k is the
    square of the sum less the sum of squares.

    Args:
        chosen_VI: the value that each voter gave each item, or NONE. [V, I]

    Returns:
        None where it is not defined: no item has two answers, or all of them are the same.
    """
    values = np.unique(chosen_VI[chosen_VI != NONE])
    n_UC = np.stack([(chosen_VI == value).sum(0) for value in values], 1) if values.size else None
    if n_UC is None:
        return None
    n_UC = n_UC[n_UC.sum(1) >= 2]
    m_U, n_C, n = n_UC.sum(1), n_UC.sum(0), n_UC.sum()
    apart = n**2 - (n_C**2).sum()
    if not apart:
        return None
    observed = ((m_U**2 - (n_UC**2).sum(1)) / (m_U - 1)).sum() / n
    return float(1 - observed / (apart / (n * (n - 1))))


@dataclass(frozen=True, kw_only=True)
class Position:
    """Where a way was shown, on average, over `shown` sets of pictures; 1 is leftmost."""

    mean: float
    expected: float
    shown: int
    balanced: bool


def positions(orders: Iterable[Sequence[str]], ways: Sequence[str]) -> dict[str, Position]:
    """Each way's mean position, and whether shuffling explains it.

    A position is uniform on 1..W, with variance (W**2 - 1) / 12; `balanced` is a mean within
    SURPRISING standard errors of (W + 1) / 2.
    """
    places = [[order.index(way) + 1 for way in ways] for order in orders]
    expected = (len(ways) + 1) / 2
    allowed = SURPRISING * ((len(ways) ** 2 - 1) / 12 / len(places)) ** 0.5
    means = np.mean(places, axis=0)
    return {
        way: Position(
            mean=float(mean), expected=expected, shown=len(places),
            balanced=bool(abs(mean - expected) <= allowed),
        )
        for way, mean in zip(ways, means, strict=True)
    }  # fmt: skip
