"""Proves that batches are a function of the step: every example once an epoch, pools at their
shares, one bucket a batch, and processes that share each batch without overlap.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.errors import UserError
from insitu.training.data import Share
from insitu.training.order import Order


def make(
    pools: list[str], shares: dict[str, float], *, batch: int = 4, steps: int = 60, **more: object
) -> Order:
    buckets = more.pop("buckets", ["64x64"] * len(pools))
    return Order(pools, buckets, shares=shares, batch=batch, steps=steps, seed=3, **more)


@given(st.integers(1, 23), st.integers(1, 7))
def test_every_example_comes_once_an_epoch(examples: int, batch: int) -> None:
    order = make(["a"] * examples, {"a": 1.0}, batch=batch, steps=3 * examples)
    drawn = [row for step in range(order.steps) for row in order.batch(step)]
    for start in range(0, len(drawn) - examples + 1, examples):
        assert sorted(drawn[start : start + examples]) == list(range(examples))
    if examples > 8:
        assert drawn[:examples] != drawn[examples : 2 * examples]


@given(st.floats(0.01, 0.99), st.floats(0.01, 3.0))
def test_after_any_number_of_slots_each_pool_has_had_its_share(b: float, c: float) -> None:
    order = make(["a"] * 5 + ["b"] * 3 + ["c"], {"a": 1.0, "b": b, "c": c}, batch=1, steps=200)
    had = Counter()
    pools = ["a"] * 5 + ["b"] * 3 + ["c"]
    for step in range(order.steps):
        had[pools[order.batch(step)[0]]] += 1
        for pool, share in (("a", 1.0), ("b", b), ("c", c)):
            wanted = (step + 1) * share / (1 + b + c)
            assert abs(had[pool] - wanted) < 2.01


def test_a_batch_has_one_bucket_and_buckets_come_at_the_first_pools_share() -> None:
    pools = ["a"] * 12 + ["b"] * 2
    buckets = ["64x64"] * 9 + ["32x96"] * 3 + ["64x64", "16x16"]
    order = make(pools, {"a": 0.7, "b": 0.3}, batch=3, steps=400, buckets=buckets)
    seen = Counter()
    for step in range(order.steps):
        of = {buckets[row] for row in order.batch(step)}
        assert len(of) == 1
        seen[of.pop()] += 1
    assert set(seen) == {"64x64", "32x96"}  # no example of the first pool is 16x16
    assert seen["32x96"] / 400 == pytest.approx(0.25, abs=0.07)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    one, two = (make(["a"] * 30, {"a": 1.0}) for _ in range(2))
    order = [two.batch(step) for step in (9, 3, 50)]
    assert order == [one.batch(step) for step in (9, 3, 50)]
    assert [make(["a"] * 30, {"a": 1.0}, window=9).batch(step) for step in (9, 3, 50)] == order
    other = Order(["a"] * 30, ["x"] * 30, shares={"a": 1.0}, batch=4, steps=60, seed=4)
    assert [other.batch(step) for step in (9, 3, 50)] != order


def test_a_shuffle_keeps_few_files_open() -> None:
    files = [row // 10 for row in range(100)]
    order = make(["a"] * 100, {"a": 1.0}, batch=10, steps=20, blocks=files, window=2)
    for first in range(0, 20, 2):
        rows = [row for step in (first, first + 1) for row in order.batch(step)]
        assert len({files[row] for row in rows}) <= 2
    drawn = [row for step in range(10) for row in order.batch(step)]
    assert sorted(drawn) == list(range(100))


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_processes_and_turns_share_a_batch_without_overlap(ranks: int, turns: int, n: int) -> None:
    batch = ranks * turns * n
    parts = [
        Share(rank=rank, ranks=ranks, accumulate=turns).slots(batch, turn)
        for turn in range(turns)
        for rank in range(ranks)
    ]
    assert sorted(slot for part in parts for slot in part) == list(range(batch))
    assert {len(part) for part in parts} == {n}


def test_what_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(UserError, match="no multiple of 6"):
        Share(ranks=3, accumulate=2).slots(8, 0)
    with pytest.raises(UserError, match="None of them is of the pool 'a'"):
        make(["b"], {"a": 0.5, "b": 0.5})


def test_the_epoch_counts_the_first_pool() -> None:
    order = make(["a"] * 14 + ["b"] * 2, {"a": 0.7, "b": 0.3}, batch=4, steps=60)
    assert order.epoch(0) == 0 and order.epoch(5) == pytest.approx(1.0)
