"""Proves UNO's numerics: references lie on the diagonal and are seen, missing ones do not count,
the adapter comes back from its file, and the published names load to the same layers.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`, and FLUX.1-dev's shapes without weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from insitu.backbones.flux import FluxBackbone
from insitu.errors import UserError
from insitu.methods import Example, Image, Placement, Request, Told
from insitu.methods.uno import Settings, Uno
from insitu.methods.uno.keys import from_published
from insitu.methods.uno.layout import layout
from insitu.methods.uno.method import PREFIX
from insitu.params import FluxCheckpoint
from insitu.requests import EVERYWHERE

SIZE, WORDS = 32, 16
SETTINGS = Settings(
    most=2,
    rank=2,
    acting="all",
    reference_size=16,
    steps=2,
    guidance_scale=3.5,
    training_guidance=1.0,
)


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=SIZE, max_sequence_length=WORDS)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


@pytest.fixture
def method(base: FluxBackbone, request: pytest.FixtureRequest) -> Iterator[Uno]:
    """With an adapter that has an effect."""
    found = Uno(replace(SETTINGS, acting=getattr(request, "param", "all")))
    for k, p in enumerate(found.attach(base).parameters()):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(k)) / 3
    yield found
    if hasattr(base.transformer, "peft_config"):
        found.detach(base)


def picture(seed: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def placement(seed: int, box: tuple[float, float, float, float] = EVERYWHERE) -> Placement:
    return Placement(box_xyxy01=box, reference=picture(seed), prompt="mug")


def request(*placements: Placement) -> Request:
    return Request(
        image=picture(9), placements=placements, prompt="a mug", seed=0, background="free"
    )


def losses(base: FluxBackbone, method: Uno, *examples: Example, **changed: torch.Tensor) -> Told:
    text = base.encode_text(tuple(each.prompt for each in examples))
    told = method.condition(base, examples)
    told |= {"text.tokens": text.tokens, "text.pooled": text.pooled, **changed}
    noise = torch.randn(told["z_0"].shape[1:], generator=torch.Generator().manual_seed(5))
    t = torch.full((len(examples),), 0.5)
    return method.loss(base, told, noise.expand(len(examples), -1, -1, -1), t)


def example(*placements: Placement) -> Example:
    return Example(id="e", image=picture(3), prompt="a mug", pool="boundid", placements=placements)


def test_references_lie_on_the_diagonal() -> None:
    found = layout(
        torch.ones(1, 2, dtype=torch.bool), words=3, cells=(8, 12), reference_cells=4, acting="all"
    )
    assert found["reference0"].ids.tolist() == [[0, 4, 6], [0, 4, 7], [0, 5, 6], [0, 5, 7]]
    assert found["reference1"].ids.tolist() == [[0, 6, 8], [0, 6, 9], [0, 7, 8], [0, 7, 9]]
    assert not found.frozen  # a reference is modulated as the picture is, at each step


def test_a_missing_reference_counts_for_nothing(base: FluxBackbone, method: Uno) -> None:
    both = losses(base, method, example(placement(1)), example(placement(1), placement(2)))["flow"]
    alone = losses(base, Uno(SETTINGS), example(placement(1)))["flow"]
    assert both[0].item() == pytest.approx(alone.item(), abs=1e-5)
    assert abs(both[1].item() - alone.item()) > 1e-3
    told = {"dropped.condition": torch.tensor([True, True])}
    dropped = losses(base, method, example(placement(1)), example(placement(2)), **told)["flow"]
    assert dropped[0].item() == pytest.approx(dropped[1].item(), abs=1e-5)


def test_left_to_the_base_text_and_picture_have_no_adapter(base: FluxBackbone) -> None:
    own = replace(SETTINGS, acting="references")
    found = Uno(own)
    names = {name.replace("/", ".") for name in found.attach(base)}
    found.detach(base)
    assert names and not any("add_" in name for name in names)
    seen = layout(
        torch.ones(1, 1, dtype=torch.bool), words=3, cells=(8, 8), reference_cells=4,
        acting="references",
    )  # fmt: skip
    assert [branch.adapters for branch in seen.branches] == [(), (), ("uno",)]


@pytest.mark.parametrize("method", ["all", "references"], indirect=True)
def test_all_that_learns_has_a_gradient_and_comes_back(base: FluxBackbone, method: Uno) -> None:
    losses(base, method, example(placement(1), placement(2)))["flow"].sum().backward()
    learned = [p for p in base.transformer.parameters() if p.requires_grad]
    assert learned and all(p.grad is not None and p.grad.any() for p in learned)
    asked = [request(placement(1)), request(placement(1), placement(2))]
    painted, state = method.paint(base, asked), method.state(base)
    method.detach(base)
    method.load(base, state)
    again = method.paint(base, asked)
    assert all(np.array_equal(a, b) for a, b in zip(painted, again, strict=True))
    assert not np.array_equal(painted[0], painted[1])


def test_a_place_is_refused(base: FluxBackbone, method: Uno) -> None:
    with pytest.raises(UserError, match="not where"):
        method.paint(base, [request(placement(1, (0.0, 0.0, 0.5, 1.0)))])


def published(base: FluxBackbone, rank: int) -> dict[str, torch.Tensor]:
    """Random weights by the published names, in the shapes of this base."""
    transformer, generator = base.transformer, torch.Generator().manual_seed(0)
    width = transformer.inner_dim
    found = {}

    def put(name: str, wide: int, out: int) -> None:
        found[f"{name}.down.weight"] = torch.randn(rank, wide, generator=generator)
        found[f"{name}.up.weight"] = torch.randn(out, rank, generator=generator)

    for k in range(len(transformer.transformer_blocks)):
        for stream in "12":
            put(f"double_blocks.{k}.processor.qkv_lora{stream}", width, 3 * width)
            put(f"double_blocks.{k}.processor.proj_lora{stream}", width, width)
    for k, block in enumerate(transformer.single_transformer_blocks):
        put(f"single_blocks.{k}.processor.qkv_lora", width, 3 * width)
        put(f"single_blocks.{k}.processor.proj_lora", block.proj_out.in_features, width)
    return found


def test_the_published_names_load(base: FluxBackbone, method: Uno) -> None:
    """`up` of q, k and v, one after the other, times the common `down`, is each layer's change."""
    method.detach(base)
    state = published(base, SETTINGS.rank)
    method.load(base, state)
    own = method.state(base)
    fused = "double_blocks.0.processor.qkv_lora2"
    change = state[f"{fused}.up.weight"] @ state[f"{fused}.down.weight"]
    names = ("add_q_proj", "add_k_proj", "add_v_proj")
    for name, part in zip(names, change.chunk(3), strict=True):
        layer = f"{PREFIX}transformer_blocks.0.attn.{name}"
        mine = own[f"{layer}.lora_B.weight"] @ own[f"{layer}.lora_A.weight"]
        assert torch.allclose(mine, part, atol=1e-5)
    assert own.keys() == from_published(state, PREFIX).keys()
    with pytest.raises(UserError, match="none of them"):
        from_published(state | {"other": torch.zeros(1)}, PREFIX)
