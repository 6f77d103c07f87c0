"""Proves what is made of SCRFD's nine outputs and what ArcFace gets to see.

Needs onnx to write tiny real model files and onnxruntime to run them; no trained weights.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from insitu.errors import UserError
from insitu.perception.face_finder import FaceFinder
from insitu.perception.insightface import InsightFace, suppress

FLOAT = TensorProto.FLOAT
# Deng et al. 2019, as published with the code; of a crop of 112 pixels, from pixel centres.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655],
     [70.7299, 92.2041]]
)  # fmt: skip
Answers = list[NDArray[np.float32]]


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, NDArray[np.generic]],
    shape: Sequence[int | str],
    outputs: Sequence[str],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, path)
    return path


def blank() -> Answers:
    """Nine outputs with no face in them: scores, distances, landmarks at strides 8, 16, 32."""
    anchors = [2 * (640 // stride) ** 2 for stride in (8, 16, 32)]
    return [np.zeros((n, width), np.float32) for width in (1, 4, 10) for n in anchors]


def put(
    answers: Answers,
    level: int,
    row: int,
    column: int,
    anchor: int,
    score: float,
    distances: Sequence[float],
    points: NDArray[np.floating] | float = 0.0,
) -> None:
    """One anchor's answer; the cells of a level are counted by rows, two anchors each."""
    index = (row * (640 >> (level + 3)) + column) * 2 + anchor
    answers[level][index] = score
    answers[level + 3][index] = distances
    answers[level + 6][index] = np.asarray(points, np.float32).ravel()


def constant_detector(path: Path, answers: Answers) -> Path:
    """A detector that sees the same faces in every picture."""
    names = [f"out{k}" for k in range(len(answers))]
    nodes = [helper.make_node("Identity", [f"w{k}"], [name]) for k, name in enumerate(names)]
    weights = {f"w{k}": value for k, value in enumerate(answers)}
    return write(path, nodes, weights, [1, 3, "height", "width"], names)


def pooling_embedder(path: Path, batch: int | str = "n", size: int = 112) -> Path:
    """An embedder that answers with the means of 4 x 4 tiles of each channel: 48 numbers."""
    nodes = [
        helper.make_node(
            "AveragePool", ["image"], ["means"], kernel_shape=[28, 28], strides=[28, 28]
        ),
        helper.make_node("Flatten", ["means"], ["vector"]),
    ]
    return write(path, nodes, {}, [batch, 3, size, size], ["vector"])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def opened(detector: Path, embedder: Path) -> InsightFace:
    return InsightFace.from_files(
        detector=detector,
        detector_sha256=digest(detector),
        embedder=embedder,
        embedder_sha256=digest(embedder).upper(),
    )


def tiles(crop_HWC: NDArray[np.floating]) -> NDArray[np.floating]:
    """What the pooling embedder makes of a crop in 0..255, at unit length."""
    pooled = crop_HWC.reshape(4, 28, 4, 28, 3).mean((1, 3)).transpose(2, 0, 1).ravel()
    vector = (pooled - 127.5) / 127.5
    return vector / np.linalg.norm(vector)


def test_boxes_and_landmarks_are_decoded_and_brought_back_to_the_picture(tmp_path: Path) -> None:
    answers = blank()
    offsets = np.array([[-1, -2], [1, -2], [0, 0.5], [-1, 1.5], [1, 1.5]])
    put(answers, 0, row=10, column=20, anchor=0, score=0.9, distances=(2, 3, 4, 5), points=offsets)
    put(answers, 1, row=12, column=30, anchor=1, score=0.95, distances=(1, 1, 2, 2), points=offsets)
    put(answers, 2, row=3, column=4, anchor=1, score=0.5, distances=(1, 1, 1, 1))
    put(answers, 2, row=8, column=10, anchor=0, score=0.49, distances=(1, 1, 1, 1))
    finder = opened(
        constant_detector(tmp_path / "d.onnx", answers), pooling_embedder(tmp_path / "e.onnx")
    )
    picture = np.random.default_rng(0).integers(0, 256, (200, 320, 3), dtype=np.uint8)
    ((first, second, third),) = finder.find([picture])
    size = np.array([640, 400])  # the letterbox doubles the picture
    assert [round(f.score, 4) for f in (first, second, third)] == [0.95, 0.9, 0.5]
    # Stride 16, cell (12, 30): the anchor is at x 480, y 192.
    assert first.box_xyxy01 == pytest.approx((464 / 640, 176 / 400, 512 / 640, 224 / 400))
    assert first.landmarks_xy01 == pytest.approx(((480, 192) + 16 * offsets) / size, abs=1e-6)
    # Stride 8, cell (10, 20): the anchor is at x 160, y 80.
    assert second.box_xyxy01 == pytest.approx((144 / 640, 56 / 400, 192 / 640, 120 / 400))
    assert second.landmarks_xy01 == pytest.approx(((160, 80) + 8 * offsets) / size, abs=1e-6)
    # Stride 32, cell (3, 4), all landmarks in one place: still an embedding.
    assert third.box_xyxy01 == pytest.approx((96 / 640, 64 / 400, 160 / 640, 128 / 400))
    assert np.isfinite(third.embedding).all()
    for face in (first, second):
        assert np.linalg.norm(face.embedding) == pytest.approx(1, abs=1e-5)
        assert face.landmarks_xy01.dtype == face.embedding.dtype == np.float32


def test_boxes_end_at_the_pictures_edge_and_the_weaker_of_two_alike_goes(tmp_path: Path) -> None:
    answers = blank()
    put(answers, 2, row=10, column=5, anchor=0, score=0.8, distances=(2, 2, 2, 2))
    put(answers, 2, row=10, column=5, anchor=1, score=0.9, distances=(2, 2, 2, 2.1))
    # Four cells wide, shifted by two: a third of the two boxes' union is shared, less than 0.4.
    put(answers, 2, row=10, column=7, anchor=0, score=0.7, distances=(2, 2, 2, 2))
    put(answers, 2, row=0, column=0, anchor=0, score=0.6, distances=(9, 9, 1, 1))
    finder = opened(
        constant_detector(tmp_path / "d.onnx", answers), pooling_embedder(tmp_path / "e.onnx")
    )
    (faces,) = finder.find([np.zeros((640, 320, 3), np.uint8)])
    assert [round(face.score, 4) for face in faces] == [0.9, 0.7, 0.6]
    assert faces[2].box_xyxy01 == pytest.approx((0, 0, 32 / 320, 32 / 640))


def test_suppression_keeps_boxes_that_share_no_more_than_asked() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.0, 0, 1, 0.5], [0.5, 0, 1.5, 1], [2.0, 2, 3, 3]])
    scores = torch.tensor([0.6, 0.9, 0.7, 0.8])  # IoU of 0 and 1 is 0.5, of 0 and 2 a third
    assert suppress(scores, boxes, 0.4) == [1, 3, 2]
    assert suppress(scores, boxes, 0.5) == [1, 3, 2, 0]


def red_detector(path: Path) -> Path:
    """A detector that takes cells of stride 8 for faces as far as they are red."""
    kernel = np.zeros((1, 3, 8, 8), np.float32)
    kernel[0, 0] = 1 / 64
    weights: dict[str, NDArray[np.generic]] = {
        "kernel": kernel,
        "cells": np.array([6400, 1]),
        "anchors": np.array([12800, 1]),
        "none": np.zeros((6400, 1), np.float32),
    }
    answers = blank()
    answers[3][:] = (0, 0, 1, 1)
    for k in range(1, 9):
        weights[f"w{k}"] = answers[k]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["red"], strides=[8, 8]),
        helper.make_node("Reshape", ["red", "cells"], ["column"]),
        helper.make_node("Concat", ["column", "none"], ["both"], axis=1),
        helper.make_node("Reshape", ["both", "anchors"], ["out0"]),
        *(helper.make_node("Identity", [f"w{k}"], [f"out{k}"]) for k in range(1, 9)),
    ]
    return write(path, nodes, weights, [1, 3, 640, 640], [f"out{k}" for k in range(9)])


@pytest.mark.parametrize("shape", [(640, 320, 3), (240, 320, 3), (1280, 960, 3)])
def test_the_detector_sees_the_picture_in_the_top_left_as_rgb(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    cell = 8 * max(shape) // 640  # the picture's pixels in a cell of the letterbox
    picture = np.zeros(shape, np.uint8)
    picture[5 * cell : 6 * cell, 9 * cell : 10 * cell] = (255, 0, 0)
    picture[20 * cell : 21 * cell, 4 * cell : 5 * cell] = (0, 0, 255)
    finder = opened(red_detector(tmp_path / "d.onnx"), pooling_embedder(tmp_path / "e.onnx"))
    ((face,),) = finder.find([picture])
    pixels = np.array(face.box_xyxy01) * (*shape[1::-1], *shape[1::-1])
    assert pixels == pytest.approx(cell * np.array([9, 5, 10, 6]), abs=0.01)
    if shape[0] >= 640:  # enlarged, the patch's edges are soft
        assert face.score == pytest.approx((255 - 127.5) / 128, abs=1e-4)


def wave(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """A smooth RGB picture as a function of place, in 0..255."""
    channels = (np.sin(x / 19), np.cos(y / 17), np.sin((x + y) / 23))
    return 127.5 + 110 * np.stack(channels, -1)


@pytest.mark.parametrize(("scale", "angle"), [(1.0, 0.0), (0.8, 0.4), (1.3, -0.2)])
@pytest.mark.parametrize("batch", ["n", 1])
def test_the_embedder_sees_the_face_where_arcface_wants_it(
    tmp_path: Path, scale: float, angle: float, batch: int | str
) -> None:
    # Pixel p of the picture shows the place z of the aligned crop with p = a z + b.
    a, b = scale * np.exp(1j * angle), 160 + 110j - scale * np.exp(1j * angle) * (56 + 72j)
    y, x = np.mgrid[:240, :320]
    places = (x + 1j * y - b) / a
    picture = np.rint(wave(places.real, places.imag)).astype(np.uint8)
    moved = a * (TEMPLATE @ (1, 1j)) + b
    landmarks = np.stack([moved.real, moved.imag], -1)
    answers = blank()
    for anchor, (row, column) in enumerate([(20, 30), (40, 60)]):
        # The letterbox doubles the picture; offsets are counted in strides from the anchor.
        offsets = (2 * landmarks - (column * 8, row * 8)) / 8
        put(answers, 0, row, column, anchor, 0.9 - anchor / 10, (3, 3, 3, 3), offsets)
    finder = opened(
        constant_detector(tmp_path / "d.onnx", answers),
        pooling_embedder(tmp_path / "e.onnx", batch),
    )
    (faces,) = finder.find([picture])
    rows, columns = np.mgrid[:112, :112]
    expected = tiles(wave(columns, rows))
    assert len(faces) == 2
    for face in faces:
        assert face.landmarks_xy01 == pytest.approx(landmarks / (320, 240), abs=1e-5)
        assert face.embedding == pytest.approx(expected, abs=4e-3)


def test_no_faces_and_no_pictures(tmp_path: Path) -> None:
    finder: FaceFinder = opened(
        constant_detector(tmp_path / "d.onnx", blank()), pooling_embedder(tmp_path / "e.onnx")
    )
    assert finder.find([]) == []
    assert finder.find([np.zeros((64, 48, 3), np.uint8)] * 2) == [[], []]
    with pytest.raises(UserError, match="uint8 RGB"):
        finder.find([np.zeros((64, 48, 3), np.float32)])


def test_the_name_tells_both_files(tmp_path: Path) -> None:
    detector = constant_detector(tmp_path / "d.onnx", blank())
    embedder = pooling_embedder(tmp_path / "e.onnx")
    name = opened(detector, embedder).name
    assert digest(detector)[:16] in name
    assert digest(embedder)[:16] in name


def test_only_the_files_that_were_meant_are_opened(tmp_path: Path) -> None:
    detector = constant_detector(tmp_path / "d.onnx", blank())
    embedder = pooling_embedder(tmp_path / "e.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    pickled = tmp_path / "e.pt"
    pickled.write_bytes(embedder.read_bytes())
    cases = [
        (embedder, digest(detector), "another model"),
        (tmp_path / "none.onnx", digest(embedder), "no such file"),
        (pickled, digest(embedder), "only format"),
        (broken, digest(broken), "cannot open"),
    ]
    for path, sha256, reason in cases:
        with pytest.raises(UserError, match=reason):
            InsightFace.from_files(
                detector=detector,
                detector_sha256=digest(detector),
                embedder=path,
                embedder_sha256=sha256,
            )


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    detector = constant_detector(tmp_path / "d.onnx", blank())
    embedder = pooling_embedder(tmp_path / "e.onnx")
    with pytest.raises(UserError, match="has 6 outputs"):
        opened(constant_detector(tmp_path / "six.onnx", blank()[:6]), embedder)
    with pytest.raises(UserError, match="112 x 112"):
        opened(detector, pooling_embedder(tmp_path / "large.onnx", size=224))
    wrong = blank()
    wrong[4] = wrong[4][:-1]
    finder = opened(constant_detector(tmp_path / "wrong.onnx", wrong), embedder)
    with pytest.raises(UserError, match="At stride 16"):
        finder.find([np.zeros((64, 64, 3), np.uint8)])
