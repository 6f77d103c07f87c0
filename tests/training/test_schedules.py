"""Proves what the rate is at each step: today's hold and fall, warm-up, linear, cosine, refusals.

Needs nothing. The references are today's expression, and transformers' own schedules.
"""

import functools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.optimization import (
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from insitu.errors import UserError
from insitu.training.schedules import schedule, staged


@given(st.integers(1, 200), st.floats(0, 1))
def test_constant_with_a_cooldown_is_the_old_hold_and_fall(steps: int, cooldown: float) -> None:
    factor = schedule("constant", steps=steps, cooldown=cooldown)
    falling = max(1.0, cooldown * steps)
    assert [factor(k) for k in range(steps + 1)] == [
        min(1.0, (steps - k) / falling) for k in range(steps + 1)
    ]


@pytest.mark.parametrize(
    ("name", "reference"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_the_named_shapes_are_those_of_transformers(name, reference, warmup: int) -> None:
    steps = 40
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = reference(optimizer, warmup, steps).lr_lambdas[0]
    ours = schedule(name, steps=steps, warmup=warmup)
    for step in range(warmup, steps + 1):
        assert ours(step) == pytest.approx(theirs(step), abs=1e-12)


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.integers(1, 60),
    st.integers(0, 59),
    st.floats(0, 1),
)
def test_every_step_counts_and_the_rate_rises_once_and_falls_once(name, steps, warmup, share):
    warmup = min(warmup, steps - 1)
    cooldown = share * (1 - warmup / steps) * 0.999 if name == "constant" else 0.0
    factor = schedule(name, steps=steps, warmup=warmup, cooldown=cooldown)
    rates = [factor(step) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert factor(steps) == factor(steps + 3) == 0
    rising = rates[: warmup + 1]
    assert rising[:warmup] == pytest.approx([(k + 1) / warmup for k in range(warmup)])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


@given(st.integers(2, 60), st.floats(0.05, 0.95), st.floats(0, 1))
def test_each_stage_rises_and_falls_by_itself(steps: int, until: float, cooldown: float) -> None:
    factor = staged("constant", [until, 1.0], steps=steps, cooldown=cooldown)
    first = math.ceil(until * steps)
    parts = [(0, first), (first, steps)] if first < steps else [(0, steps)]
    for start, end in parts:
        alone = schedule("constant", steps=end - start, cooldown=cooldown)
        assert [factor(k) for k in range(start, end)] == [alone(k) for k in range(end - start)]
    assert factor(steps) == factor(steps + 3) == 0


def test_without_stages_the_rate_is_the_schedule_s() -> None:
    one, other = (f(steps=9, warmup=2, cooldown=0.5) for f in (
        functools.partial(staged, "constant", []), functools.partial(schedule, "constant"),
    ))  # fmt: skip
    assert [one(k) for k in range(12)] == [other(k) for k in range(12)]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"name": "step", "steps": 5}, "not known"),
        ({"name": "constant", "steps": 0}, "must be a step"),
        ({"name": "constant", "steps": 5, "warmup": -1}, "0 warm-up"),
        ({"name": "constant", "steps": 5, "cooldown": 50}, "cooldown of 0 to 1"),
        ({"name": "cosine", "steps": 5, "cooldown": 0.5}, "by itself"),
        ({"name": "linear", "steps": 5, "warmup": 5}, "before it has risen"),
        ({"name": "constant", "steps": 10, "warmup": 6, "cooldown": 0.5}, "before it has risen"),
    ],
)
def test_contradictions_are_refused(values: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        schedule(values.pop("name"), **values)
