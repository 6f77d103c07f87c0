"""Proves that a minibatch's noise, times and dropped conditions follow from (seed, example, slot,
step) alone, and that validation is the same every time.

Needs nothing trained: examples that are already encoded.
"""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from insitu.methods import VALIDATION
from insitu.training.data import BANDS, CHANCES, Minibatches, Share, Validation
from insitu.training.order import Order
from insitu.training.times import Times


class Encoded(SimpleNamespace):
    """Six examples to learn from and three to look at."""

    def __init__(self) -> None:
        super().__init__(
            ids=[f"e{k}" for k in range(9)],
            pools=["subject"] * 4 + ["regular"] * 2 + [VALIDATION] * 3,
            buckets=["8x8"] * 9,
            prompts=["a"] * 9,
        )

    def told(self, rows: list[int]) -> dict[str, torch.Tensor]:
        return {"z_0": torch.stack([torch.full((4, 2, 2), float(row)) for row in rows])}

    def text(self, prompts: list[str]) -> dict[str, torch.Tensor]:
        return {"context": torch.tensor([[float(len(prompt))] for prompt in prompts])}

    def latent_shape(self, row: int) -> tuple[int, int, int]:
        return 4, 2, 2


def make(seed: int = 0, share: Share | None = None, **drop: float) -> Minibatches:
    encoded = Encoded()
    order = Order(
        encoded.pools, encoded.buckets, shares={"subject": 0.7, "regular": 0.3}, batch=4, steps=40,
        seed=0,
    )  # fmt: skip
    return Minibatches(
        encoded, order, times=Times(kind="uniform"), drop=drop, seed=seed, share=share or Share()
    )


def test_a_minibatch_depends_on_seed_and_step_alone() -> None:
    one, two = make(), make()
    _ = two[3], two[9]
    for step in (0, 5):
        a, b = one[step], two[step]
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t) and a.ids == b.ids
    assert not torch.equal(one[0].noise, one[1].noise)
    assert not torch.equal(one[0].noise, make(seed=1)[0].noise)
    assert not torch.equal(one[0].noise[0], one[0].noise[1])


@given(st.sampled_from([(2, 1), (1, 2), (2, 2), (4, 1)]))
def test_ranks_and_turns_have_the_parts_of_the_very_same_batch(parts: tuple[int, int]) -> None:
    ranks, turns = parts
    whole = make(text=0.5)[7]
    pieces = [
        make(share=Share(rank=rank, ranks=ranks, accumulate=turns), text=0.5)[7 * turns + turn]
        for turn in range(turns)
        for rank in range(ranks)
    ]
    assert tuple(id for piece in pieces for id in piece.ids) == whole.ids
    assert torch.equal(torch.cat([piece.noise for piece in pieces]), whole.noise)
    assert torch.equal(torch.cat([piece.t for piece in pieces]), whole.t)
    told = torch.cat([piece.told["text.context"] for piece in pieces])
    assert torch.equal(told, whole.told["text.context"])


@given(st.floats(0, 1), st.floats(0, 1))
def test_conditions_are_dropped_at_their_own_rates_and_nothing_else_changes(
    text: float, image: float
) -> None:
    plain, dropping = make(), make(text=text, image=image)
    prompts, images = [], []
    for step in range(40):
        a, b = plain[step], dropping[step]
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t) and a.ids == b.ids
        prompts += b.told["text.context"].flatten().tolist()
        images += b.told["dropped.image"].tolist()
    assert prompts.count(0.0) / 160 == pytest.approx(text, abs=0.16)
    assert sum(images) / 160 == pytest.approx(image, abs=0.16)


def test_validation_is_the_same_every_time_and_drops_nothing() -> None:
    first, second = (Validation(Encoded(), size=2, seed=0, share=Share()) for _ in range(2))
    assert len(first) == 2 * len(BANDS)
    for a, b in zip([first[k] for k in range(10)], [second[k] for k in range(10)], strict=True):
        assert torch.equal(a.noise, b.noise) and torch.equal(a.t, b.t) and a.counts
        assert all(id in {"e6", "e7", "e8"} for id in a.ids) and (a.told["text.context"] == 1).all()


@given(st.integers(1, 12))
def test_ranks_validate_every_example_once_at_every_time_and_take_equally_long(ranks: int) -> None:
    parts = [
        Validation(Encoded(), size=2, seed=0, share=Share(rank=rank, ranks=ranks))
        for rank in range(ranks)
    ]
    assert len({len(part) for part in parts}) == 1
    seen = [
        (id, t)
        for part in parts
        for batch in (part[k] for k in range(len(part)))
        if batch.counts
        for id, t in zip(batch.ids, batch.t.tolist(), strict=True)
    ]
    assert len(seen) == len(set(seen)) == 3 * len(BANDS)


def test_chances_are_an_examples_own_and_change_nothing_else() -> None:
    batches = make()
    first, second = batches[0], batches[1]
    assert first.told["chances"].shape == (len(first.ids), CHANCES)
    assert not torch.equal(first.told["chances"], second.told["chances"])
    assert torch.equal(make()[1].told["chances"], second.told["chances"])
    drawn = torch.cat([batches[k].told["chances"].flatten() for k in range(40)])
    assert drawn.min() >= 0 and drawn.max() < 1 and abs(float(drawn.mean()) - 0.5) < 0.05
    progress = [float(batches[k].told["progress"][0]) for k in range(40)]
    assert progress == pytest.approx([k / 40 for k in range(40)])
