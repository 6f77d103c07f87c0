"""Inpaint-Anywhere says what the paper says: who sees whom, what learns, where things go.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`, and FLUX.1-dev's shapes without weights.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from peft import LoraConfig

from insitu.backbones import adapters
from insitu.backbones.branches import Cache
from insitu.backbones.flux import FluxBackbone
from insitu.errors import UserError
from insitu.methods import Example, Image, Placement, Request, Told
from insitu.methods.inpaint_anywhere.layout import layout
from insitu.methods.inpaint_anywhere.method import TARGETS, InpaintAnywhere, Settings
from insitu.methods.inpaint_anywhere.position import PositionEncoder
from insitu.params import FluxCheckpoint

LEFT, RIGHT = (0.0, 0.25, 0.5, 0.75), (0.5, 0.25, 1.0, 1.0)
SETTINGS = Settings(
    most=2, identity_rank=2, inpaint_rank=1, targets="wide", adapters="both", shifted=True,
    placed=True, frequencies=3, group="identity+position", reference_size=8, fill=128,
    category=True, steps=2, guidance_scale=3.5, passes="one", paste=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    path = str(checkpoints["flux"])
    checkpoint = FluxCheckpoint(path=path, size=32, max_sequence_length=16)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


@pytest.fixture
def method(base: FluxBackbone) -> Iterator[InpaintAnywhere]:
    found = InpaintAnywhere(SETTINGS)
    yield found
    if hasattr(base.transformer, "peft_config"):
        found.detach(base)


def picture(seed: int, height: int = 32, width: int = 32) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def placement(seed: int, box: tuple[float, float, float, float] = LEFT) -> Placement:
    return Placement(box_xyxy01=box, reference=picture(seed, 20, 12), prompt="mug")


def request(*placements: Placement, seed: int = 0, **more: Any) -> Request:
    words = " and ".join(f"[V{k + 1}] mug" for k in range(len(placements)))
    given: dict[str, Any] = {"image": picture(9), "prompt": f"{words} on the grass", "seed": seed}
    return Request(placements=placements, **{**given, **more})


def example(*placements: Placement, id: str = "e") -> Example:
    mask = np.zeros((32, 32), np.uint8)
    for each in placements:
        x0, y0, x1, y1 = (round(32 * v) for v in each.box_xyxy01)
        mask[y0:y1, x0:x1] = 255
    return Example(
        id=id, image=picture(3), mask=mask, prompt="[V1]", pool="boundid", placements=placements
    )


def told(base: FluxBackbone, method: InpaintAnywhere, *examples: Example) -> Told:
    text = base.encode_text(tuple(each.prompt for each in examples))
    found = method.condition(base, examples)
    return found | {"text.tokens": text.tokens, "text.pooled": text.pooled}


def loss(base: FluxBackbone, method: InpaintAnywhere, given: Told) -> torch.Tensor:
    shape = given["z_0"].shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return method.loss(base, given, noise, torch.linspace(0.3, 0.8, shape[0]))["flow"]


def effective(method: InpaintAnywhere, base: FluxBackbone) -> None:
    """An attached adapter that is not zero."""
    torch.manual_seed(1)
    for p in method.attach(base).parameters():
        p.data.normal_(0, 0.2)


def test_everything_that_is_to_learn_has_a_gradient(
    base: FluxBackbone, method: InpaintAnywhere
) -> None:
    effective(method, base)
    learned = dict(torch.nn.ModuleDict(method._learned(base)).named_parameters())
    given = told(base, method, example(placement(1), placement(2, RIGHT)))
    loss(base, method, given).sum().backward()
    assert [name for name, p in learned.items() if p.grad is None or not p.grad.any()] == []
    assert any(name.startswith("position_encoder") for name in learned)
    rest = set(base.transformer.parameters()) - set(learned.values())
    assert not any(p.requires_grad for p in rest)


def test_an_adapter_comes_back_from_its_file(base: FluxBackbone, method: InpaintAnywhere) -> None:
    effective(method, base)
    asked = [request(placement(1), placement(2, RIGHT))]
    painted = method.paint(base, asked)
    state = method.state(base)
    method.detach(base)
    assert {name.split(".")[0] for name in state} == {"identity", "inpaint", "position_encoder"}
    method.load(base, state)
    assert np.array_equal(method.paint(base, asked)[0], painted[0])
    method.detach(base)
    del state["position_encoder.0.weight"]
    with pytest.raises(UserError, match="1 of its layers are missing"):
        method.load(base, state)
    assert not hasattr(base.transformer, "peft_config")


def test_painting_keeps_what_is_outside_and_uses_the_cache(
    base: FluxBackbone, method: InpaintAnywhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    effective(method, base)
    asked = request(placement(1), placement(2, RIGHT), image=picture(4, 24, 40))
    (painted,) = method.paint(base, [asked])
    assert painted.shape == asked.image.shape
    outside = np.ones(painted.shape[:2], bool)
    outside[6:18, :20] = outside[6:24, 20:] = False
    assert np.array_equal(painted[outside], asked.image[outside])
    assert not np.array_equal(painted, asked.image)
    monkeypatch.setattr(Cache, "holds", lambda self, following: False)
    (uncached,) = method.paint(base, [asked])
    assert np.abs(uncached.astype(int) - painted).max() <= 1


def test_a_picture_depends_on_its_own_request_alone(
    base: FluxBackbone, method: InpaintAnywhere
) -> None:
    effective(method, base)
    asked = [
        request(placement(1), placement(2, RIGHT), seed=1),
        request(placement(3), seed=2),
        request(placement(4), placement(5, RIGHT), seed=3),
        request(placement(6), seed=4, image=picture(8, 16, 32)),
    ]
    together = method.paint(base, asked)
    for one, found in zip(asked, together, strict=True):
        assert np.abs(method.paint(base, [one])[0].astype(int) - found).max() <= 1


def test_a_batch_may_hold_different_numbers_of_identities(
    base: FluxBackbone, method: InpaintAnywhere
) -> None:
    effective(method, base)
    two, one = example(placement(1), placement(2, RIGHT), id="a"), example(placement(3), id="b")
    both = loss(base, method, told(base, method, two, one))
    alone = InpaintAnywhere(replace(SETTINGS, most=1))
    given = told(base, alone, one)
    noise = torch.randn(2, *given["z_0"].shape[1:], generator=torch.Generator().manual_seed(5))
    single = alone.loss(base, given, noise[1:], torch.tensor([0.8]))["flow"]
    torch.testing.assert_close(both[1:], single)


def test_a_dropped_condition_is_no_condition(base: FluxBackbone, method: InpaintAnywhere) -> None:
    effective(method, base)
    given = told(base, method, example(placement(1)))
    other = told(base, method, example(placement(2)))
    dropped = {"dropped.condition": torch.tensor([True])}
    assert not torch.equal(loss(base, method, given), loss(base, method, other))
    torch.testing.assert_close(
        loss(base, method, given | dropped), loss(base, method, other | dropped)
    )


def made(**more: Any) -> Any:
    boxes = torch.tensor([[LEFT, RIGHT]])
    given: dict[str, Any] = {
        "cells": (8, 8), "reference_cells": 4, "words": 5,
        "adapters": (("identity",), ("inpaint",)), "shifted": True, "placed": True,
        "group": "identity+position",
    }  # fmt: skip
    return layout(boxes, torch.ones(1, 2, dtype=torch.bool), **{**given, **more})


def test_conditions_see_their_group_and_are_frozen() -> None:
    conditions = {"mask", "reference0", "position0", "reference1", "position1"}
    for group, expected in (
        ("self", {"reference0"}),
        ("identity+position", {"reference0", "position0"}),
        ("conditions", conditions),
    ):
        found = made(group=group)
        assert set(found.sees["reference0"]) == expected
        assert found.frozen == conditions
        assert set(found.sees["image"]) == conditions | {"text", "image"} == set(found.sees["text"])
    assert found["reference0"].adapters == ("identity",) and found["mask"].adapters == ("inpaint",)
    assert found["position0"].adapters == () == found["image"].adapters == found["text"].adapters


def test_identities_lie_beside_the_picture_and_one_another() -> None:
    found = made()
    columns = [found[f"reference{k}"].ids[:, 2] for k in range(2)]
    assert [(int(c.min()), int(c.max())) for c in columns] == [(4, 5), (8, 9)]
    assert torch.equal(found["mask"].ids, found["image"].ids)
    # The centre of the left box is at half the height and a quarter of the width of 4 x 4 tokens.
    assert found["position0"].ids.tolist() == [[[0.0, 1.5, 4.5]]]
    still = made(shifted=False)
    assert int(still["reference1"].ids[:, 2].max()) == 1


def test_several_passes_paint_one_identity_after_the_other(
    base: FluxBackbone, method: InpaintAnywhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = InpaintAnywhere(replace(SETTINGS, passes="each"))
    effective(each, base)
    asked = request(placement(1), placement(2, RIGHT))
    seen: list[list[Request]] = []
    plain = each._paint
    monkeypatch.setattr(each, "_paint", lambda b, r: seen.append(list(r)) or plain(b, r))
    (found,) = each.paint(base, [asked])
    assert [[len(r.placements) for r in some] for some in seen] == [[1], [1]]
    assert [some[0].prompt for some in seen] == ["[V1] mug and mug on the grass",
                                                 "mug and [V1] mug on the grass"]  # fmt: skip
    first = plain(base, seen[0])[0]
    assert np.array_equal(seen[1][0].image, first)
    assert np.array_equal(found, plain(base, seen[1])[0])


@pytest.mark.parametrize(("targets", "millions"), [("qkv", 8.4), ("wide", 29.0)])
def test_counts_on_flux_dev_are_the_papers_code(targets: str, millions: float) -> None:
    with torch.device("meta"):
        dev = FluxTransformer2DModel(guidance_embeds=True)
        config = LoraConfig(r=8, lora_alpha=8, target_modules=TARGETS[targets])
        adapters.attach(dev, config, "identity")
        encoder = PositionEncoder(dev.inner_dim, 6)
    assert adapters.count(dev, "identity") / 1e6 == pytest.approx(millions, abs=0.05)
    assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(9.6, abs=0.05)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (request(placement(1), placement(2), placement(3)), "It takes 1 to 2"),
        (request(placement(1), prompt="a mug on the grass"), r"does not hold \[V1\]"),
        (request(placement(1, (0.0, 0.0, 0.1, 0.5))), "nothing can be painted in less"),
        (request(Placement(box_xyxy01=LEFT)), "It needs one for each"),
        (
            request(Placement(box_xyxy01=LEFT, reference=np.zeros((4, 4), np.uint8))),
            "A picture is RGB",
        ),
        (
            request(replace(placement(1), mask=np.full((32, 32), 255, np.uint8))),
            "would ignore it",
        ),
        (request(placement(1), negative_prompt="blur"), "would ignore it"),
        (request(placement(1, (0.5, 0.5, 1.5, 0.9))), "within 0..1"),
    ],
)
def test_what_cannot_be_painted_is_refused_before_any_work(
    base: FluxBackbone, method: InpaintAnywhere, asked: Request, why: str
) -> None:
    with pytest.raises(UserError, match=why):
        method.paint(base, [asked])
