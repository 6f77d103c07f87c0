"""Proves that EliGen's geometry is exact and that each mistake is refused in three parts before any
work; and that rows of the data set become examples and requests.

Needs no GPU; the tiny random pipeline of `tests/tiny.py`.
"""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.nn.functional import interpolate, max_pool2d

from insitu.backbones.flux import FluxBackbone
from insitu.errors import UserError
from insitu.methods import VALIDATION, Example, Placement, Request, data_of
from insitu.methods.eligen import EliGen, Settings
from insitu.methods.eligen.regions import canvas, cells_of, scaled, tokens_of
from insitu.params import FluxCheckpoint, load
from insitu.records import Image
from insitu.records.engines import Entity, EntityPicture, Lineage
from insitu.records.types import Box
from insitu.training.memory.rehearsal import Rehearsal
from insitu.training.optimizers import Optimization

SIZE, WORDS = 32, 16
SETTINGS = Settings(
    most=2, rank=2, feed_forward=False, training_guidance=1.0, steps=1, guidance_scale=3.0,
    guidance=3.5, fuse="after_cfg", paste=True, image_prompt=None, image_prompt_scale=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> FluxBackbone:
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=SIZE, max_sequence_length=WORDS)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70), st.integers(1, 70), st.integers(1, 6), st.integers(1, 6),
    st.floats(0.02, 0.9), st.integers(0, 99),
)  # fmt: skip
def test_a_token_counts_if_any_of_its_cells_is_in_the_nearest_resized_mask(
    height: int, width: int, rows: int, columns: int, share: float, seed: int
) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8) * 255
    cells = cells_of(mask, 2 * rows, 2 * columns)
    plain = torch.from_numpy(mask)[None, None].double()
    nearest = interpolate(plain, (2 * rows, 2 * columns), mode="nearest")
    assert torch.equal(torch.from_numpy(cells), nearest[0, 0] > 127)
    any_of_four = max_pool2d(nearest, 2).flatten() > 127
    assert tokens_of(cells).tolist() == any_of_four.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 4000), st.integers(8, 4000), st.sampled_from([64, 512, 1024]))
def test_a_photo_is_painted_in_its_own_shape(height: int, width: int, size: int) -> None:
    stride = 8 if size == 64 else 16
    high, wide = canvas(np.zeros((height, width, 0), np.uint8), size=size, stride=stride)
    assert high % stride == wide % stride == 0 and min(high, wide) >= stride
    exact = size * math.sqrt(height / width), size * math.sqrt(width / height)
    assert all(
        abs(side - wanted) <= stride / 2 or side == stride
        for side, wanted in zip((high, wide), exact, strict=True)
    )


def test_a_picture_of_the_right_size_is_itself() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    assert scaled(image, 16, 24) is image
    assert canvas(np.zeros((64, 64, 3), np.uint8), size=64, stride=8) == (64, 64)


def mug(**more: Any) -> Placement:
    return Placement(**{"box_xyxy01": (0.1, 0.1, 0.8, 0.8), "prompt": "a red mug"} | more)


def request(*placements: Placement, **more: Any) -> Request:
    image = np.zeros((64, 96, 3), np.uint8)
    given = {"image": image, "prompt": "a red mug", "seed": 0} | more
    return Request(placements=placements, **given)


def a_dot() -> np.ndarray:
    mask = np.zeros((64, 96), np.uint8)
    mask[1, 1] = 255  # between the pixels that latent cells ask
    return mask


LONG = "a red mug " * WORDS
REFUSED = {
    "entity prompt over the limit": (
        request(mug(prompt=LONG)), "placement 1 has", "in fewer words",
    ),
    "prompt over the limit": (request(mug(), prompt=LONG), "The prompt has", "in fewer words"),
    "negative prompt over the limit": (
        request(mug(), negative_prompt=LONG), "The negative prompt has", "in fewer words",
    ),
    "mask empty": (
        request(mug(mask=np.zeros((64, 96), np.uint8))), "placement 1 is empty", "Draw where",
    ),
    "mask of another size": (
        request(mug(mask=np.zeros((64, 64), np.uint8))), "64 x 64", "Scale the mask",
    ),
    "mask that no token sees": (request(mug(mask=a_dot())), "has 1 pixels", "Make it larger"),
    "box under one token": (
        request(mug(), mug(box_xyxy01=(0.1, 0.1, 0.25, 0.4))), "box of placement 2",
        "Make it larger",
    ),
    "box outside": (request(mug(box_xyxy01=(0.1, 0.1, 1.4, 0.9))), "The box", "Divide pixels"),
    "empty entity prompt": (
        request(mug(), mug(prompt=" ")), "Placement 2 has an empty", "Say what",
    ),
    "no entity prompt": (request(mug(prompt=None)), "without a prompt", "Add it"),
    "more entities than the most": (request(mug(), mug(), mug()), "3 placements", "Give as many"),
    "nothing to paint": (request(), "No placement", "background='free'"),
    "a style without an image prompt": (
        request(mug(), style=np.zeros((8, 8, 3), np.uint8)), "for the style", "Leave it out",
    ),
    "a reference": (
        request(mug(reference=np.zeros((8, 8, 3), np.uint8))), "a reference picture",
        "Leave it out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_painted_is_refused_before_any_work(
    name: str, base: FluxBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, said, todo = REFUSED[name]
    monkeypatch.setattr(base, "sample", None)  # work would fail
    with pytest.raises(UserError) as caught:
        EliGen(SETTINGS).paint(base, [request(mug()), asked])
    assert said in caught.value.given
    assert caught.value.why
    assert todo in caught.value.todo


def test_a_negative_prompt_without_guidance_is_refused(base: FluxBackbone) -> None:
    method = EliGen(replace(SETTINGS, guidance_scale=1.0))
    with pytest.raises(UserError, match="would ignore it"):
        method.paint(base, [request(mug(), negative_prompt="a cat")])


def test_a_method_that_only_fills_refuses_whole_pictures() -> None:
    accepts = replace(EliGen(SETTINGS).accepts, free=False)
    with pytest.raises(UserError, match="It paints into a photo only"):
        accepts.require("another", request(mug(), background="free"))


@pytest.mark.parametrize(
    ("placements", "said"),
    [
        ((mug(),) * 3, "has 3 entities"),
        ((mug(), mug(prompt="")), "Entity 2 of the example 'e'"),
        ((mug(prompt=LONG),), "entity 1 of the example 'e' has"),
        ((mug(box_xyxy01=(0.05, 0.05, 0.12, 0.9)),), "Entity 1 of the example 'e' has the box"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(
    base: FluxBackbone, placements: tuple[Placement, ...], said: str
) -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    example = Example(id="e", image=image, prompt="a red mug", pool="", placements=placements)
    with pytest.raises(UserError, match=said):
        EliGen(SETTINGS).condition(base, [example])


def row(id: str, split: str, *boxes: tuple[float, float, float, float]) -> EntityPicture:
    return EntityPicture(
        id=id,
        image=Image.from_array(np.full((40, 40, 3), 200, np.uint8)),
        asked="mugs",
        prompt="two mugs",
        entities=tuple(
            Entity(word="mug", prompt=f"mug {k}", box=Box(x0=x0, y0=y0, x1=x1, y1=y1))
            for k, (x0, y0, x1, y1) in enumerate(boxes)
        ),
        split=split,
        lineage=Lineage(sources=("caption 0",), models=("world",)),
    )


def test_rows_become_examples_and_held_out_requests(base: FluxBackbone) -> None:
    large, small, middle = (0.0, 0.0, 0.6, 0.6), (0.6, 0.6, 0.9, 0.9), (0.5, 0.5, 0.9, 0.9)
    rows = {
        "entities": [
            row("a", "train", small, large, middle), row("b", "validation", small),
            row("c", "test", large), row("d", "test", middle, small),
        ]
    }  # fmt: skip
    data = data_of("eligen")
    assert {"entities": EntityPicture} == data.SETS
    method = EliGen(SETTINGS)
    found = list(data.examples(rows, SETTINGS, size=SIZE, seed=0))
    assert [(e.id, e.pool) for e in found] == [("a", "entities"), ("b", VALIDATION)]
    assert [p.prompt for p in found[0].placements] == [
        "mug 1",
        "mug 2",
    ]  # the two largest, in order
    assert all(e.image.shape == (SIZE, SIZE, 3) for e in found)
    told = method.condition(base, found)
    assert told["entities.present"].tolist() == [[True, True], [True, False]]
    assert told["entities.regions"][0, 0].reshape(4, 4).tolist() == [
        [True, True, True, False], [True, True, True, False], [True, True, True, False],
        [False] * 4,
    ]  # fmt: skip

    def ask() -> list[Request]:
        return list(data.requests(rows, SETTINGS, size=SIZE, seed=0, split="test"))

    asked = ask()
    assert [len(r.placements) for r in asked] == [1, 2]
    assert asked[0].seed != asked[1].seed
    assert asked[0].seed == ask()[0].seed
    assert [picture.shape for picture in method.paint(base, asked)] == [(SIZE, SIZE, 3)] * 2


def test_a_memory_plan_needs_no_weights(base: FluxBackbone) -> None:
    """More entities take more memory to learn, by shapes alone."""

    def peak(most: int) -> int:
        rehearsal = Rehearsal(
            lambda: FluxBackbone.empty(base.checkpoint),
            EliGen(replace(SETTINGS, most=most)),
            optimizer=Optimization(name="adamw", lr=1e-3),
            average=False,
        )
        assert sum(rehearsal.painting(2).values()) > 0
        return sum(rehearsal.training(2, False, False).values())

    assert peak(4) > peak(1) > 0


def test_the_shipped_settings_are_the_methods() -> None:
    own = load(Path(__file__).parents[2] / "params.yaml").eligen
    settings = Settings(**own.model_dump(exclude={"train"}))
    assert asdict(EliGen(settings).settings) == own.model_dump(exclude={"train"})


@pytest.mark.parametrize(
    ("key", "value"), [("drop", {"text": 0.1, "condition": 1.0}), ("min_snr", 5.0)]
)
def test_settings_that_cannot_teach_are_refused(key: str, value: Any) -> None:
    own = load(Path(__file__).parents[2] / "params.yaml").eligen
    wrong = {**own.model_dump(), "train": own.train.model_dump() | {key: value}}
    with pytest.raises(ValidationError, match=rf"eligen.train.{key}.* is .*\. Set it"):
        type(own).model_validate(wrong)
