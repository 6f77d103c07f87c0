"""Frozen branches are computed once, with the same pictures, and never outlive what made them.

Needs no GPU; tiny random transformers.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from insitu.backbones import adapters
from insitu.backbones.branches import Branch, BranchTransformer, Cache, Inputs, Layout
from tests.backbones.branching import inputs, lora, transformer, two_references


def _sampled(
    model: BranchTransformer, layout: Layout, told: Inputs, cache: Cache | None
) -> list[Tensor]:
    """The picture at each of five Euler steps."""
    x, steps, found = told.tokens["image"], 5, []
    for k in range(steps):
        t = torch.full_like(told.t, 1 - k / steps)
        now = replace(told, t=t, tokens={**told.tokens, "image": x})
        x = x - model(layout=layout, inputs=now, cache=cache) / steps
        found.append(x)
    return found


@torch.no_grad()
def test_cached_sampling_is_uncached_sampling() -> None:
    model = transformer(double=2, single=2)
    lora(model, "own")
    layout = two_references(adapters=("own",))
    assert layout.frozen == {"a", "b"}
    cache, told = Cache(), inputs(layout)
    expected = _sampled(model, layout, told, None)
    found = _sampled(model, layout, told, cache)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (cache.fills, cache.hits) == (1, 4)
    again = replace(told, tokens={name: tokens.clone() for name, tokens in told.tokens.items()})
    torch.testing.assert_close(_sampled(model, layout, again, cache), expected)
    assert cache.fills == 1, "equal values are the same inputs"


@torch.no_grad()
def test_what_sees_something_that_changes_is_not_frozen() -> None:
    names = ["text", "image", "a", "b"]
    sees = {"text": names, "image": names, "a": ["a", "b"], "b": ["b", "image"]}
    layout = two_references(sees=sees)
    assert layout.frozen == set()
    model, cache, told = transformer(), Cache(), inputs(layout)
    found = _sampled(model, layout, told, cache)
    torch.testing.assert_close(found, _sampled(model, layout, told, None))
    assert cache.fills == cache.hits == 0


def _another_prompt(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    return replace(told, pooled=told.pooled + 1)


def _another_reference(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    return replace(told, tokens={**told.tokens, "b": told.tokens["b"] + 1})


def _a_reference_changed_in_place(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    told.tokens["b"].add_(1)
    return told


def _another_place(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    layout["a"].ids[:, 2] += 1
    layout.whole.rotary = layout.live.rotary = None
    return told


def _a_trained_adapter(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    for p in adapters.layers(model, "own").parameters():
        p.add_(0.1)
    return told


def _a_weaker_adapter(model: BranchTransformer, layout: Layout, told: Inputs) -> Inputs:
    adapters.switch(model, "own", "frozen", weight=0.5)
    return told


@pytest.mark.parametrize(
    "change",
    [
        _another_prompt, _another_reference, _a_reference_changed_in_place, _another_place,
        _a_trained_adapter, _a_weaker_adapter,
    ],
)  # fmt: skip
@torch.no_grad()
def test_a_change_empties_the_cache(
    change: Callable[[BranchTransformer, Layout, Inputs], Inputs],
) -> None:
    model = transformer()
    lora(model, "own")
    layout = two_references(adapters=("own",))
    cache, told = Cache(), inputs(layout)
    first = model(layout=layout, inputs=told, cache=cache)
    changed = change(model, layout, told)
    found = model(layout=layout, inputs=changed, cache=cache)
    assert cache.fills == 2
    torch.testing.assert_close(found, model(layout=layout, inputs=changed))
    assert not torch.equal(found, first)


@torch.no_grad()
def test_another_box_has_another_layout_and_another_cache() -> None:
    model, cache = transformer(), Cache()
    layout = two_references()
    told = inputs(layout)
    model(layout=layout, inputs=told, cache=cache)
    moved = [
        Branch(name=b.name, ids=b.ids + (b.name == "b"), space=b.space, clean=b.clean)
        for b in layout.branches
    ]
    elsewhere = Layout(moved, layout.sees)
    found = model(layout=elsewhere, inputs=told, cache=cache)
    assert cache.fills == 2
    torch.testing.assert_close(found, model(layout=elsewhere, inputs=told))


def test_a_cache_that_is_learned_through_has_gradients() -> None:
    """Filling it while learning is no mistake: what it keeps is differentiable."""
    model, cache = transformer(), Cache()
    layout = two_references()
    told = inputs(layout)
    told.tokens["a"].requires_grad_()
    model(layout=layout, inputs=told, cache=cache)
    model(layout=layout, inputs=told, cache=cache).square().sum().backward()
    assert cache.hits == 1
    assert told.tokens["a"].grad is not None and told.tokens["a"].grad.abs().max() > 0
