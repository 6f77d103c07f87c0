"""The branch engine is diffusers' transformer where nothing is added, and does what `sees` says.

Needs no GPU; tiny random transformers, and nano's.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from insitu.backbones import adapters
from insitu.backbones.branches import Branch, Inputs, Layout, branching, everything
from insitu.backbones.branches.attention import attend
from insitu.backbones.branches.layout import spans
from tests.backbones.branching import grid, inputs, lora, random, transformer, two_references

NANO = Path(__file__).parents[2] / "models" / "nano" / "flux"


def _plain(model: Any, layout: Layout, given: Inputs) -> Tensor:
    return model(
        hidden_states=given.tokens["image"], encoder_hidden_states=given.tokens["text"],
        pooled_projections=given.pooled, timestep=given.t, guidance=given.guidance,
        img_ids=layout["image"].ids, txt_ids=layout["text"].ids, return_dict=False,
    )[0]  # fmt: skip


def _two_branches(height: int, width: int, words: int) -> Layout:
    text = Branch(name="text", ids=torch.zeros(words, 3), space="text")
    return Layout(
        [text, Branch(name="image", ids=grid(height, width))], everything(("text", "image"))
    )


@pytest.mark.parametrize(
    ("double", "single", "guidance"), [(2, 2, True), (1, 1, False), (2, 0, True)]
)
@torch.no_grad()
def test_without_more_branches_it_is_diffusers(double: int, single: int, guidance: bool) -> None:
    model = transformer(double=double, single=single, guidance=guidance)
    layout = _two_branches(3, 4, 5)
    told = inputs(layout, **({} if guidance else {"guidance": None}))
    expected = _plain(model, layout, told)
    torch.testing.assert_close(model(layout=layout, inputs=told), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_nano_without_more_branches_is_diffusers() -> None:
    plain = FluxTransformer2DModel.from_pretrained(NANO / "transformer", dtype=torch.float32)
    layout = _two_branches(8, 8, 20)
    told = Inputs(
        tokens={"text": random(2, 20, 128), "image": random(2, 64, 64, seed=1)},
        pooled=random(2, 128, seed=2), t=torch.tensor([0.3, 0.8]), guidance=torch.tensor([3.5, 2]),
    )  # fmt: skip
    expected = _plain(plain, layout, told)
    found = branching(plain)(layout=layout, inputs=told)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(_plain(plain, layout, told), expected)  # and still takes a plain call


@st.composite
def _layouts(draw: st.DrawFn) -> Layout:
    """Up to five branches of up to four tokens; some see others wholly, some through masks."""
    batch = 2
    lengths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    names = ["text", "image", *"abc"][: len(lengths)]

    def bits(*shape: int) -> Tensor:
        count = int(torch.tensor(shape).prod())
        drawn = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return torch.tensor(drawn).reshape(shape)

    branches, sees = [], {}
    for name, length in zip(names, lengths, strict=True):
        present = bits(batch, length) if draw(st.booleans()) else None
        space: Any = "text" if name == "text" else "latent"
        branches.append(Branch(name=name, ids=grid(1, length), space=space, present=present))
    for name, length in zip(names, lengths, strict=True):
        sees[name] = {name: None}
        for other, size in zip(names, lengths, strict=True):
            how = draw(st.sampled_from(["no", "all", "queries", "keys", "both"]))
            if other == name or how == "no":
                continue
            shape = {"all": None, "queries": (batch, length, 1), "keys": (1, 1, size),
                     "both": (batch, length, size)}[how]  # fmt: skip
            sees[name][other] = None if shape is None else bits(*shape)
    return Layout(branches, sees)


@settings(max_examples=60, deadline=None)
@given(_layouts())
def test_attention_by_views_is_one_masked_attention(layout: Layout) -> None:
    batch, heads, width = 2, 2, 4
    total = sum(branch.length for branch in layout.branches)
    where = spans(layout.branches)
    dense = torch.zeros(batch, total, total, dtype=torch.bool)
    for query, seen in layout.sees.items():
        for key, mask in seen.items():
            open_ = torch.ones(1, 1, 1, dtype=torch.bool) if mask is None else mask
            present = layout[key].present
            if present is not None:
                open_ = open_ & present[:, None]
            dense[:, where[query], where[key]] = open_
    sensible = dense.any(-1)  # what sees nothing is padding, and nobody looks at it
    q, k, v = (random(batch, total, heads, width, seed=seed).requires_grad_() for seed in range(3))
    found = attend(q, k, v, layout.views(layout.branches, layout.branches))
    seen = (dense | ~sensible[..., None])[:, None]
    expected = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), seen)
    expected = expected.transpose(1, 2).flatten(2)
    weight = random(*found.shape, seed=3) * sensible[..., None]
    torch.testing.assert_close(found[sensible], expected[sensible])
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), (q, k, v)),
        torch.autograd.grad((expected * weight).sum(), (q, k, v)),
    )


@torch.no_grad()
def test_closed_blocks_are_never_multiplied() -> None:
    layout = two_references()
    multiplied = sum(
        sum(q.stop - q.start for q in view.queries) * sum(k.stop - k.start for k in view.keys)
        for view in layout.whole.views
    )
    assert multiplied == (3 + 6) * (3 + 6 + 4 + 4) + 4 * 4 + 4 * 4
    assert [view.mask for view in layout.whole.views] == [None] * 3
    assert len(layout.live.views) == 1, "text and image see the same, so they share a call"


def test_an_adapter_of_scale_0_is_the_base_bit_for_bit() -> None:
    model = transformer()
    layout = two_references(adapters=("own",))
    told = inputs(layout)
    with torch.no_grad():
        base = model(layout=layout, inputs=told)
        lora(model, "own")
        assert not torch.equal(model(layout=layout, inputs=told), base)
        adapters.switch(model, "own", "disabled")
        assert torch.equal(model(layout=layout, inputs=told), base)
        adapters.switch(model, "own", "frozen", weight=0.5)
        half = model(layout=layout, inputs=told)
    assert not torch.equal(half, base)
    assert not any(p.requires_grad for p in adapters.layers(model, "own").parameters())
    adapters.switch(model, "own", "learning")
    assert all(p.requires_grad for p in adapters.layers(model, "own").parameters())


@torch.no_grad()
def test_an_adapter_changes_only_who_sees_its_branch() -> None:
    model = transformer()
    names = ["text", "image", "a", "b"]
    sees = {"text": ["text", "image"], "image": names, "a": ["a"], "b": ["b"]}

    def outputs() -> dict[str, Tensor]:
        found = {}
        for output in ("image", "a", "b"):
            branches = [
                Branch(name=b.name, ids=b.ids, space=b.space, clean=b.clean,
                       adapters=("own",) if b.name == "a" else ())
                for b in two_references().branches
            ]  # fmt: skip
            layout = Layout(branches, sees, output=output)
            found[output] = model(layout=layout, inputs=inputs(layout))
        return found

    before = outputs()
    lora(model, "own")
    after = outputs()
    assert torch.equal(before["b"], after["b"])
    assert not torch.equal(before["a"], after["a"])
    assert not torch.equal(before["image"], after["image"])


def test_branches_that_see_only_themselves_never_depend_on_one_another() -> None:
    model = transformer(double=2, single=3)
    layout = two_references(output="a")
    told = inputs(layout)
    for tokens in told.tokens.values():
        tokens.requires_grad_()
    model(layout=layout, inputs=told).square().sum().backward()
    assert told.tokens["a"].grad is not None and told.tokens["a"].grad.abs().max() > 0
    assert all(
        told.tokens[name].grad is None or not told.tokens[name].grad.any()
        for name in ("b", "image", "text")
    )


def test_two_weighted_adapters_add_up() -> None:
    model = transformer(double=1, single=0)
    layout = two_references(adapters=("one", "two"))
    told = inputs(layout)
    lora(model, "one", seed=1)
    lora(model, "two", seed=99)
    layer = model.transformer_blocks[0].attn.to_q
    x = random(2, 5, 32)
    from insitu.backbones.branches.layers import of_branch, project

    adapters.switch(model, "one", "frozen", weight=0.25)
    expected = layer.base_layer(x)
    for name, weight in (("one", 0.25), ("two", 1.0)):
        expected = expected + weight * 2 * layer.lora_B[name](layer.lora_A[name](x))
    torch.testing.assert_close(project(layer, x, of_branch(("one", "two"))), expected)
    both = model(layout=layout, inputs=told)
    adapters.switch(model, "two", "disabled")
    assert not torch.equal(model(layout=layout, inputs=told), both)


@torch.no_grad()
def test_a_padded_batch_is_each_example_alone() -> None:
    model = transformer()
    lora(model, "own")
    present = torch.tensor([[True] * 4, [False] * 4])
    names = ["text", "image", "a", "b"]
    sees = {"text": names, "image": names, "a": ["a"], "b": ["b", "image"]}
    branches = {b.name: b for b in two_references(adapters=("own",)).branches}
    padded = Branch(name="b", ids=branches["b"].ids, clean=True, adapters=("own",), present=present)
    layout = Layout([branches["text"], branches["image"], branches["a"], padded], sees)
    told = inputs(layout)
    found = model(layout=layout, inputs=told)
    alone = Layout(
        [branches["text"], branches["image"], branches["a"]],
        {name: ["text", "image", "a"] if name != "a" else ["a"] for name in ("text", "image", "a")},
    )
    with_b = Layout(list(branches.values()), sees)
    torch.testing.assert_close(found[:1], model(layout=with_b, inputs=_row(told, 0)))
    torch.testing.assert_close(found[1:], model(layout=alone, inputs=_row(told, 1)))


def _row(told: Inputs, row: int) -> Inputs:
    one = slice(row, row + 1)
    assert told.guidance is not None
    return Inputs(
        tokens={name: tokens[one] for name, tokens in told.tokens.items()},
        pooled=told.pooled[one], t=told.t[one], guidance=told.guidance[one],
    )  # fmt: skip


def test_checkpointed_gradients_are_the_same() -> None:
    model = transformer()
    lora(model, "own")
    layout = two_references(adapters=("own",))
    own = list(adapters.layers(model, "own").parameters())

    def gradients() -> list[Tensor]:
        loss = model(layout=layout, inputs=inputs(layout)).square().mean()
        return list(torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True))

    plain = gradients()
    assert sum(bool(gradient.any()) for gradient in plain) > len(plain) / 2
    model.enable_gradient_checkpointing()
    torch.testing.assert_close(gradients(), plain)


def test_an_offset_moves_its_own_branch_only() -> None:
    model = transformer(double=1, single=0)
    sees = {"text": ["text"], "image": ["image", "a"], "a": ["a"], "b": ["b"]}
    offsets = {"a": random(2, 32, seed=5)}
    for output, moves in (("a", True), ("b", False), ("image", True)):
        branches = [
            Branch(name=b.name, ids=b.ids, space=b.space, clean=b.clean, shifted=b.name == "a")
            for b in two_references().branches
        ]
        layout = Layout(branches, sees, output=output)
        still = inputs(layout, offsets={"a": torch.zeros(2, 32)})
        changed = model(layout=layout, inputs=inputs(layout, offsets=offsets))
        assert torch.equal(model(layout=layout, inputs=still), changed) != moves


def test_a_layout_that_cannot_be_is_refused() -> None:
    text, image = two_references()["text"], two_references()["image"]
    with pytest.raises(ValueError, match="sees"):
        Layout([text, image], {"text": ["text"], "image": ["text"]})
    with pytest.raises(ValueError, match="views"):
        Layout([text, image], {"text": ["text"]})
    with pytest.raises(ValueError, match="none is text"):
        Layout([image], {"image": ["image"]})


@torch.no_grad()
def test_it_runs_in_bfloat16() -> None:
    model = transformer().to(torch.bfloat16)
    layout = two_references(adapters=("own",))
    lora(model, "own")
    found = model(layout=layout, inputs=inputs(layout))
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all()


def test_offsets_may_be_computed_within_the_pass() -> None:
    """By a part that was put into the transformer: the same velocity, and gradients reach it."""
    model = transformer()
    layout = two_references(shifted=True)
    part = torch.nn.Linear(5, 32)
    model.add_module("part", part)
    given = random(2, 5)

    def offsets() -> dict[str, torch.Tensor]:
        return {"a": part(given), "b": part(2 * given)}

    now = {"a": part(given).detach(), "b": part(2 * given).detach()}
    expected = model(layout=layout, inputs=inputs(layout, offsets=now))
    velocity = model(layout=layout, inputs=inputs(layout, offsets=offsets))
    assert torch.equal(velocity, expected)
    velocity.square().sum().backward()
    assert part.weight.grad is not None and part.weight.grad.any()
