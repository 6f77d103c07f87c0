"""DreamMix's sampling: disentangled inpainting, and textual attribute substitution.

Proves that lambda 1 and 0 are the pure modes, that what the first stage predicts comes back through
the hand-over, that outside of the place every pixel stays, for any size and shape, and that
substituted prompts are orthogonal to what they replace.

Needs no GPU; the tiny random pipelines of `tests/tiny.py`, SDXL's and SD1.5's.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from insitu.backbones.loading import choose_device
from insitu.backbones.unet import InpaintBackbone
from insitu.backbones.unet.sampling import Sampling
from insitu.backbones.unet.squares import Square
from insitu.edits import named, replaced, require_known
from insitu.errors import UserError
from insitu.methods import Image, Placement, Request
from insitu.methods.dreammix import DreamMix, Settings, painting
from insitu.methods.dreammix.painting import Rules, paint
from insitu.methods.dreammix.substitution import outside, substituted
from insitu.params import Checkpoint
from tests import tiny

RULES = Rules(
    sampling=Sampling(scheduler="own", steps=4, guidance_scale=2.0), local=0.5, enlarge=0.1,
    background="original", context=0.3,
)  # fmt: skip
VOCABULARY = {"colour": ["red", "blue", "green"], "pattern": ["striped", "dotted"]}
OWN = {"colour": ["red"], "pattern": ["striped"]}


@pytest.fixture(scope="module", params=["sdxl", "sd"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("base") / request.param
    torch.manual_seed(0)
    tiny.inpainting(folder, family=request.param, channels=9)
    return InpaintBackbone.load(Checkpoint(path=str(folder)), device=choose_device("cpu"))


def smooth(height: int, width: int, seed: int = 0) -> Image:
    rows, columns = np.mgrid[:height, :width] / max(height, width)
    colours = np.random.default_rng(seed).uniform(0, 255, (2, 3))
    return (colours[0] * rows[..., None] / 2 + colours[1] * columns[..., None] / 2).astype(np.uint8)


def request(mask: Image | None = None, height: int = 40, width: int = 64) -> Request:
    place = Placement(box_xyxy01=(0.25, 0.25, 0.75, 0.75))
    if mask is not None:
        place = Placement.masked(mask)
    return Request(image=smooth(height, width), placements=(place,), prompt="a red mug", seed=3)


def painted(base: Any, rules: Rules, *requests: Request) -> list[Image]:
    texts = base.encode_text(tuple(r.prompt for r in requests))
    return paint(base, requests, texts, base.encode_text(("",) * len(requests)), rules)


@pytest.mark.parametrize(("local", "sizes"), [(1.0, {32}), (0.0, {24, 40}), (0.5, {32, 24, 40})])
def test_lambda_1_and_0_are_the_pure_modes(
    base: Any, local: float, sizes: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the sizes that the U-Net sees: the square of the base's, the photo's proportions."""
    seen: list[tuple[int, int]] = []
    predict = base.predict

    def watched(z: Tensor, *given: Any, **more: Any) -> Tensor:
        seen.append((z.shape[-2] * 2, z.shape[-1] * 2))
        found: Tensor = predict(z, *given, **more)
        return found

    monkeypatch.setattr(base, "predict", watched)
    painted(base, replace(RULES, local=local), request())
    assert {side for size in seen for side in size} == sizes
    assert len(seen) == 4
    squares = sum(size == (32, 32) for size in seen)
    assert squares == round(local * 4)


def test_what_the_first_stage_predicts_comes_back_through_the_hand_over(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage's prediction is the photo itself: what is handed over is the photo, within
    what cutting out, scaling and scaling back change of a smooth one; the VAE's part is left out.
    """
    asked, handed = request(height=64, width=64), []
    square = Square.of(asked, RULES.context, base.size, enlarge=RULES.enlarge)
    monkeypatch.setattr(painting._Batch, "_local", lambda self: [square.image])
    encode = base.encode

    def watched(images: Image) -> Tensor:
        handed.append(images)
        found: Tensor = encode(images)
        return found

    monkeypatch.setattr(base, "encode", watched)
    painted(base, RULES, asked)
    photo = cv2.resize(asked.image, (32, 32), interpolation=cv2.INTER_AREA).astype(int)
    between = handed[-1][0].astype(int)
    assert np.abs(between - photo).max() <= 6


def test_the_ring_between_the_masks_is_the_photos_or_stays(base: Any) -> None:
    """With `background: original` the ring that only the first stage may fill goes back."""
    latents = {}
    for background in ("original", "intermediate"):
        rules = replace(RULES, background=background, enlarge=0.5)
        batch = painting._Batch(
            base, [request()], [Square.of(request(), 0.3, base.size, enlarge=0.5)],
            base.encode_text(("a",)), base.encode_text(("",)), rules,
        )  # fmt: skip
        kept: list[Image] = []
        told = painting._Batch._told

        def watched(*given: Any, into: list[Image] = kept, of: Any = told, **more: Any) -> Any:
            into.append(more["kept"])
            return of(*given, **more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(painting._Batch, "_told", watched)
            batch.painted(base.fitting(40, 64))
        latents[background] = kept[-1]
    photo = cv2.resize(request().image, (40, 24), interpolation=cv2.INTER_AREA)
    assert np.abs(latents["original"][0].astype(int) - photo).max() <= 1
    assert np.abs(latents["intermediate"][0].astype(int) - photo).max() > 10


@given(
    height=st.integers(16, 90), width=st.integers(16, 90), seed=st.integers(0, 99),
    local=st.sampled_from([0.0, 0.5, 1.0]),
)  # fmt: skip
def test_outside_of_the_place_every_pixel_stays(
    height: int, width: int, seed: int, local: float
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    points = rng.integers(0, [width, height], (5, 2))
    cv2.fillConvexPoly(mask, cv2.convexHull(points.astype(np.int32)), 255)
    rows, columns = np.nonzero(mask)
    if np.ptp(rows) < 3 or np.ptp(columns) < 3 or mask.all():
        return
    asked = request(mask, height, width)
    square = Square.of(asked, 0.3, 32, enlarge=0.2)
    noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
    if local == 1:
        result = square.paste(noise)
    else:
        whole = rng.integers(0, 256, (24, 24, 3), np.uint8)
        result = painting._pasted(square, whole)
    assert np.array_equal(result[mask == 0], asked.image[mask == 0])
    assert not np.array_equal(result, asked.image)


def test_a_substituted_prompt_is_orthogonal_to_what_it_replaces(base: Any) -> None:
    text = base.encode_text(("a blue dotted mug",))
    before = text.context.clone()
    words = ("red", "striped")
    got = substituted(base, text, words, pooled=True)
    for word in words:
        found = base.encode_text((word,))
        own = found.context[0, 1 : 1 + len(base.pipeline.tokenizer(word).input_ids) - 2]
        assert len(own) >= 1
        for token in own:
            cosine = got.context @ token / (got.context.norm(dim=-1) * token.norm())
            assert cosine.abs().max() < 1e-5
        if got.pooled is not None:
            along = got.pooled @ found.pooled[0] / found.pooled[0].norm() ** 2
            assert along.abs().max() < 1e-5
    assert torch.equal(text.context, before)  # never in place
    again = substituted(base, got, words, pooled=True)
    assert_close(again.context, got.context, atol=1e-6, rtol=1e-6)
    kept = substituted(base, text, words, pooled=False)
    assert kept.pooled is text.pooled


@given(st.integers(1, 4), st.integers(0, 99))
def test_outside_takes_the_whole_span_out_and_no_more(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    span = torch.randn(count, 8, generator=generator)
    x = torch.randn(3, 8, generator=generator)
    got = outside(x, torch.cat([span, span[:1] * 2]))  # one of them twice
    assert (got @ span.T).abs().max() < 1e-5 * span.norm(dim=1).max() * x.norm(dim=1).max()
    base, _ = torch.linalg.qr(span.T)
    assert_close(got, x - (x @ base) @ base.T, atol=1e-5, rtol=1e-5)


def test_one_attribute_is_the_papers_formula() -> None:
    """p_raw - (p_raw . p_eli / |p_eli|) p_eli / |p_eli| (eq. 9)."""
    raw, eli = torch.tensor([[3.0, 4.0, 5.0]]), torch.tensor([[0.0, 2.0, 0.0]])
    assert_close(outside(raw, eli), torch.tensor([[3.0, 0.0, 5.0]]))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a blue mug", ("red",)),
        ("a blue dotted mug wearing a hat", ("red", "striped")),
        ("a red mug", ()),
        ("a mug on the grass", ()),
        ("a red blue mug", ()),
    ],
)
def test_what_a_prompt_replaces_follows_from_the_dictionary(
    prompt: str, expected: tuple[str, ...]
) -> None:
    found = replaced(prompt, OWN, VOCABULARY)
    assert found == expected
    assert not set(named("sks red striped", "mug", found).split()) & set(expected)


def test_an_unmatched_attribute_leaves_the_prompt_bit_identical(
    checkpoints: dict[str, Path],
) -> None:
    base = InpaintBackbone.load(
        Checkpoint(path=str(checkpoints["inpaint"])), device=choose_device("cpu")
    )
    method = DreamMix(
        Settings(
            rank=2, targets=("to_k",), inside=1.5, outside=0.7, beta=0.4, local=1.0, enlarge=0.0,
            background="original", substitute="tokens", scheduler="own", steps=1,
            guidance_scale=1.0, rescale=0.0, context=0.3,
        )
    )  # fmt: skip
    plain = base.encode_text(("a mug",))
    asked = replace(request(), prompt="a mug")
    assert torch.equal(method._text(base, asked).context, plain.context)
    other = method._text(base, replace(asked, replaced=("red",)))
    assert not torch.allclose(other.context, plain.context)


def test_a_subjects_name_reads_well_without_its_words() -> None:
    two = "sks pink and gray dotted"
    assert named(two, "clock", ("pink",)) == "sks gray dotted clock"
    assert named(two, "clock", ("gray", "pink")) == "sks dotted clock"
    assert named(two, "clock", ("dotted",)) == "sks pink and gray clock"
    assert named("sks", "clock", ("red",)) == "sks clock"


def test_an_attribute_that_the_subject_does_not_have_is_refused() -> None:
    require_known(["red"], OWN, "mug-1")
    with pytest.raises(UserError, match="its own are: red, striped"):
        require_known(["blue"], OWN, "mug-1")
