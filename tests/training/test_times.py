"""Proves that times follow their stated densities, that shifts and loss weights are diffusers' own.

Needs nothing. Seeds are fixed, so that a statistical test gives the same answer in every run.
"""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_snr
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from insitu.errors import UserError
from insitu.training.times import EDGE, Times, loss_weights, shift_of, shifted


def uniform(t, s):
    return s / (s - (s - 1) * t) ** 2


def logit_normal(t, mean, std):
    """The docstring's density."""
    exponent = -((np.log(t / (1 - t)) - mean) ** 2) / (2 * std**2)
    return np.exp(exponent) / (std * math.sqrt(2 * math.pi) * t * (1 - t))


CASES = [
    (Times(kind="uniform"), lambda t: uniform(t, 1.0)),
    (Times(kind="uniform", shift=3.0), lambda t: uniform(t, 3.0)),
    (Times(kind="uniform", shift=0.4), lambda t: uniform(t, 0.4)),
    (Times(kind="logit_normal"), lambda t: logit_normal(t, 0.0, 1.0)),
    (Times(kind="logit_normal", mean=-0.8, std=0.6), lambda t: logit_normal(t, -0.8, 0.6)),
    (
        Times(kind="logit_normal", mean=0.5, std=1.4, shift=2.5),
        lambda t: logit_normal(t, 0.5 + math.log(2.5), 1.4),
    ),
]


@pytest.mark.parametrize(("times", "density"), CASES, ids=[str(case[0]) for case in CASES])
def test_draws_follow_the_stated_density(times: Times, density) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([times.draw(rng) for _ in range(20_000)])
    grid = np.linspace(1e-6, 1 - 1e-6, 4001)
    below = integrate.cumulative_simpson(density(grid), x=grid, initial=0)
    assert below[-1] == pytest.approx(1, abs=1e-3)
    distance = stats.kstest(drawn, lambda t: np.interp(t, grid, below)).statistic
    assert distance < 1.36 / math.sqrt(len(drawn))  # the 5% level; other cases are above 0.05
    others = [d for t, d in CASES if t != times]
    for other in others:
        wrong = integrate.cumulative_simpson(other(grid), x=grid, initial=0)
        assert stats.kstest(drawn, lambda t, w=wrong: np.interp(t, grid, w)).statistic > 0.05


def test_one_draw_a_sample_and_uniform_is_the_stream_itself() -> None:
    for times, once in (
        (Times(kind="uniform"), lambda rng: rng.random()),
        (Times(kind="logit_normal", shift=2.0), lambda rng: rng.standard_normal()),
    ):
        ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
        drawn, plain = times.draw(ours), once(theirs)
        assert ours.random() == theirs.random()
        if times.kind == "uniform":
            assert drawn == plain


@pytest.mark.parametrize("mean", [-60.0, 60.0])
def test_no_time_is_0_or_1_in_float32(mean: float) -> None:
    times = Times(kind="logit_normal", mean=mean, shift=1e3 if mean > 0 else 1e-3)
    t = torch.tensor(times.draw(np.random.default_rng(0)), dtype=torch.float32)
    assert 0 < t < 1 and min(float(t), 1 - float(t)) == EDGE


@given(st.integers(16, 8192))
def test_the_shift_is_that_of_flux_and_of_its_scheduler(tokens: int) -> None:
    mu = calculate_shift(tokens)
    s = shift_of(tokens)
    assert s == pytest.approx(math.exp(mu), rel=1e-12)
    sigmas = np.linspace(1, 0.05, 9)
    dynamic = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    dynamic.set_timesteps(sigmas=sigmas, mu=mu)
    fixed = FlowMatchEulerDiscreteScheduler(shift=s)
    fixed.set_timesteps(sigmas=sigmas)
    ours = [shifted(float(t), s) for t in sigmas]
    assert dynamic.sigmas[:-1].numpy() == pytest.approx(ours, rel=1e-5)
    assert fixed.sigmas[:-1].numpy() == pytest.approx(ours, rel=1e-5)


def test_tokens_shift_by_the_picture() -> None:
    times = Times(kind="uniform", shift="tokens")
    small, large = (times.draw(np.random.default_rng(1), tokens=n) for n in (256, 4096))
    t = np.random.default_rng(1).random()
    assert small == shifted(t, math.exp(0.5)) and large == shifted(t, math.exp(1.15))
    with pytest.raises(ValueError, match="number of tokens"):
        times.draw(np.random.default_rng(1))


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_is_the_papers_quotient_where_that_is_defined(zero: bool, gamma: float) -> None:
    steps = torch.arange(1000)
    for kind, at_zero in (("epsilon", 1.0), ("v_prediction", 0.0)):
        scheduler = DDPMScheduler(
            beta_schedule="scaled_linear", prediction_type=kind, rescale_betas_zero_snr=zero
        )
        if zero:  # diffusers keeps a last step of 2^-24 instead of 0, for its samplers
            scheduler.alphas_cumprod[-1] = 0
        snr = compute_snr(scheduler, steps).double()
        capped = snr.clamp(max=gamma)
        expected = capped / (snr if kind == "epsilon" else snr + 1)
        found = loss_weights(scheduler, steps, gamma=gamma)
        assert found.shape == (1000,) and found.dtype == torch.float32
        assert torch.isfinite(found).all() and (found <= 1).all()
        torch.testing.assert_close(found[:-1].double(), expected[:-1], rtol=1e-4, atol=1e-6)
        if zero:
            assert found[-1] == at_zero


def test_flow_matching_counts_every_time_alike_and_refuses_gamma() -> None:
    flow, steps = FlowMatchEulerDiscreteScheduler(), torch.tensor([3, 900])
    assert loss_weights(flow, steps, gamma=None).tolist() == [1, 1]
    with pytest.raises(UserError, match="alphas_cumprod"):
        loss_weights(flow, steps, gamma=5.0)
    with pytest.raises(UserError, match="above 0"):
        loss_weights(DDPMScheduler(), steps, gamma=0.0)
    with pytest.raises(UserError, match="'sample'"):
        loss_weights(DDPMScheduler(prediction_type="sample"), steps, gamma=5.0)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"kind": "cosine"}, "not known"),
        ({"kind": "logit_normal", "std": 0.0}, "above 0"),
        ({"kind": "uniform", "shift": -1.0}, "above 0"),
        ({"kind": "uniform", "shift": "auto"}, "above 0"),
        ({"kind": "uniform", "mean": 0.3}, "no mean"),
    ],
)
def test_contradictions_are_refused(values: dict, why: str) -> None:
    with pytest.raises(UserError, match=why):
        Times(**values)
