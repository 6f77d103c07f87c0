"""Proves what AnyPhoto paints and refuses: sizes, seeds, batches, boxes without landmarks, the
warning about overlaps, and each refusal in three parts before any work.

Needs no GPU; tiny random checkpoints.
"""

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu import params
from insitu.backbones.flux import FluxBackbone
from insitu.errors import UserError
from insitu.methods import Placement, Request
from insitu.methods.anyphoto import AnyPhoto
from insitu.methods.anyphoto.placing import placed
from tests.methods.anyphoto_parts import (
    FACE,
    PLACES,
    backbone_of,
    example,
    learned,
    method_of,
    picture,
    request,
)

PARAMS = params.load(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture(scope="module")
def backbone(checkpoints: dict[str, Path]) -> FluxBackbone:
    return backbone_of(checkpoints)


@pytest.fixture(scope="module")
def method(checkpoints: dict[str, Path], backbone: FluxBackbone) -> Iterator[AnyPhoto]:
    method = method_of(checkpoints, PARAMS)
    method.attach(backbone)
    learned(method, backbone, 1.0)
    yield method
    method.detach(backbone)


def with_placement(number: int = 0, **changed: Any) -> Request:
    asked = request()
    placements = list(asked.placements)
    placements[number] = replace(placements[number], **changed)
    return replace(asked, placements=tuple(placements))


def test_each_request_is_painted_as_alone_at_its_photos_size(
    method: AnyPhoto, backbone: FluxBackbone
) -> None:
    """Requests of several sizes and numbers of faces; faces of several sizes are padded."""
    large = Placement(
        box_xyxy01=(0, 0, 1, 1), landmarks_xy01=FACE, reference=picture(7),
        reference_landmarks_xy01=FACE,
    )  # fmt: skip
    asked = [
        request(1),
        replace(request(1), placements=(large,)),
        request(3, seed=9),
        request(2, height=50, width=97),
    ]
    together = method.paint(backbone, asked)
    assert [image.shape for image in together] == [r.image.shape for r in asked]
    for one, image in zip(asked, together, strict=True):
        alone = method.paint(backbone, [one])[0]
        assert np.abs(alone.astype(int) - image).max() <= 1
    again = method.paint(backbone, [replace(asked[0], seed=4)])[0]
    assert not np.array_equal(again, together[0])


def test_prompt_references_and_places_all_count(method: AnyPhoto, backbone: FluxBackbone) -> None:
    plain = method.paint(backbone, [request()])[0]
    for changed in (
        replace(request(), prompt="a watercolour of people"),
        with_placement(1, reference=picture(50)),
        with_placement(1, landmarks_xy01=PLACES[2]),
    ):
        assert not np.array_equal(method.paint(backbone, [changed])[0], plain)


def test_a_box_alone_is_an_upright_face_in_it(method: AnyPhoto, backbone: FluxBackbone) -> None:
    """A third of the picture high: the crop is 1.2 times as long, around the box's middle."""
    asked = with_placement(landmarks_xy01=None, box_xyxy01=(0.25, 0.25, 0.5, 0.58))
    seen = placed(backbone, method._analyser(backbone), method._rules(backbone), asked)[0]
    face = (seen.picture != 255).any(-1).nonzero()
    side = round(0.33 * 1.2 * 64)
    for found, middle in zip(face, (0.415 * 64, 0.375 * 64), strict=True):
        assert found.max() + 1 - found.min() == side
        assert abs((found.max() + 1 + found.min()) / 2 - middle) <= 1


def test_faces_that_overlap_are_a_warning_with_how_much(
    method: AnyPhoto, backbone: FluxBackbone
) -> None:
    with pytest.warns(UserWarning, match="Faces 1 and 2 overlap: 100% of the smaller one"):
        method.paint(backbone, [with_placement(1, landmarks_xy01=PLACES[0])])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.paint(backbone, [request()])


def refusal(method: AnyPhoto, backbone: FluxBackbone, asked: Request) -> UserError:
    with pytest.raises(UserError) as caught:
        method.paint(backbone, [request(), asked])
    assert caught.value.given and caught.value.why and caught.value.todo
    return caught.value


SAME = ((0.5, 0.5),) * 5
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no reference": ({"reference": None}, "without a reference picture"),
    "no landmarks": ({"reference_landmarks_xy01": None}, "without landmarks of its reference"),
    "four landmarks": ({"reference_landmarks_xy01": FACE[:4]}, "A face is five points"),
    "not a number": ({"reference_landmarks_xy01": ((float("nan"), 0.5),) * 5}, "A face is five"),
    "no face": ({"reference_landmarks_xy01": SAME}, "no face to see in so little"),
    "elsewhere": (
        {"reference_landmarks_xy01": tuple((x + 1, y) for x, y in FACE)},
        "outside of its picture",
    ),
    "gray": ({"reference": np.zeros((64, 64), np.uint8)}, "A picture is RGB"),
    "a mask": ({"mask": np.full((64, 64), 255, np.uint8)}, "would ignore it"),
    "one point": ({"landmarks_xy01": SAME}, "do not tell how large"),
    "five of four": ({"landmarks_xy01": FACE[:3]}, "A face is five points"),
    "outside": (
        {"landmarks_xy01": tuple((x / 4 + 2, y / 4) for x, y in FACE)},
        "Nothing of it lies in the picture",
    ),
    "tiny landmarks": (
        {"landmarks_xy01": tuple((0.5 + x / 20, 0.5 + y / 20) for x, y in FACE)},
        "in less no face can be painted",
    ),
    "tiny box": (
        {"landmarks_xy01": None, "box_xyxy01": (0.5, 0.5, 0.55, 0.55)},
        "in less no face can be painted",
    ),
    "no box": ({"landmarks_xy01": None, "box_xyxy01": (0.5, 0.5, 0.4, 0.9)}, "A box is x0, y0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_placed_is_refused_before_any_work(
    method: AnyPhoto, backbone: FluxBackbone, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed, said = REFUSED[case]
    worked: list[str] = []
    monkeypatch.setattr(backbone, "sample", lambda *_, **__: worked.append("sample"))
    monkeypatch.setattr(backbone, "encode", lambda *_, **__: worked.append("encode"))
    error = refusal(method, backbone, with_placement(**changed))
    assert said in str(error)
    assert not worked


def test_a_photo_that_is_to_stay_is_refused(method: AnyPhoto, backbone: FluxBackbone) -> None:
    error = refusal(method, backbone, replace(request(), background="keep"))
    assert "paints whole pictures only" in str(error)


def test_more_faces_than_the_settings_most_are_refused(
    checkpoints: dict[str, Path], backbone: FluxBackbone, method: AnyPhoto
) -> None:
    two = method_of(checkpoints, PARAMS, faces=2)
    assert "It takes 1 to 2" in str(refusal(two, backbone, request(3)))
    with pytest.raises(UserError, match="has 3 faces"):
        two.condition(backbone, [example(0, 3)])
    with pytest.raises(UserError, match="has 0 faces"):
        two.condition(backbone, [replace(example(0, 1), placements=())])


def test_a_patch_that_is_no_whole_number_of_tokens_is_refused_where_it_is_encoded_alone(
    checkpoints: dict[str, Path], backbone: FluxBackbone
) -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        method_of(checkpoints, PARAMS, location="roi", patch=20).paint(backbone, [request()])


def test_whole_canvases_and_region_masks_paint_too(
    checkpoints: dict[str, Path], backbone: FluxBackbone, method: AnyPhoto
) -> None:
    plain = method.paint(backbone, [request()])[0]
    for location in ("canvas", "roi"):
        other = method_of(checkpoints, PARAMS, location=location)
        assert not np.array_equal(other.paint(backbone, [request()])[0], plain)
