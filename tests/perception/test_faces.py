"""Proves the geometry of face alignment and that its crops and embeddings carry gradients.

Needs torch and transformers with tiny random networks; no checkpoint, no world.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from insitu.errors import UserError
from insitu.perception.faces import FaceAnalyser, align, crop_boxes, similarity, turn

TEMPLATE = torch.tensor([[0.34, 0.5], [0.66, 0.5], [0.5, 0.615], [0.355, 0.72], [0.645, 0.72]])

angles = st.floats(-math.pi, math.pi)
scales = st.floats(0.1, 50)
shifts = st.floats(-100, 100)
seeds = st.integers(0, 2**31)


def points(seed: int) -> Tensor:
    return torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds, angle=angles, scale=scales, x=shifts, y=shifts)
def test_similarity_recovers_the_transform_that_was_applied(
    seed: int, angle: float, scale: float, x: float, y: float
) -> None:
    a = scale * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    b = torch.tensor([[x, y]], dtype=torch.float64)
    source = points(seed)
    found_a, found_b = similarity(source, turn(source, a) + b)
    assert torch.allclose(found_a, a, atol=1e-6 * scale)
    assert torch.allclose(found_b, b, atol=1e-6 * max(scale, 100))


@given(seed=seeds, step=st.floats(-0.2, 0.2), which=st.integers(0, 3))
def test_no_other_similarity_fits_better(seed: int, step: float, which: int) -> None:
    source, target = points(seed), points(seed + 1)
    best = torch.cat(similarity(source, target), -1)

    def error(parameters: Tensor) -> float:
        fitted = turn(source, parameters[:, :2]) + parameters[:, None, 2:]
        return (fitted - target).square().sum().item()

    other = best.clone()
    other[0, which] += step
    assert error(best) <= error(other) + 1e-12


def test_coinciding_points_give_a_finite_crop_and_gradient() -> None:
    images = torch.rand(1, 3, 32, 32, requires_grad=True)
    landmarks = torch.full((1, 5, 2), 0.5, requires_grad=True)
    crops = align(images, landmarks, TEMPLATE, 16)
    crops.sum().backward()
    assert crops.isfinite().all()
    assert landmarks.grad is not None
    assert landmarks.grad.isfinite().all()


def wave(pixels_HW2: Tensor) -> Tensor:
    """A smooth picture as a function of place, so that it can be drawn under any transform."""
    x, y = pixels_HW2.unbind(-1)
    return torch.stack([torch.sin(x / 9) / 2, torch.cos(y / 7) / 2, torch.sin((x + y) / 11) / 2])


def draw(height: int, width: int, a: Tensor, b: Tensor) -> Tensor:
    """`wave` seen in an image whose pixel p shows the place z with p = a z + b."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    inverse = torch.stack([a[0], -a[1]]) / a.square().sum()
    places = turn((torch.stack([x, y], -1) - b).reshape(1, -1, 2), inverse[None])
    return wave(places.reshape(height, width, 2))[None]


@given(angle=st.floats(-3, 3), scale=st.floats(0.8, 2.5), x=st.floats(-8, 8), y=st.floats(-8, 8))
def test_a_moved_turned_and_scaled_face_gives_the_same_crop(
    angle: float, scale: float, x: float, y: float
) -> None:
    still = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])
    a = scale * torch.tensor([math.cos(angle), math.sin(angle)])
    face = TEMPLATE[None] * 24
    # The face's middle stays inside a wide, not square, image.
    b = torch.tensor([100.0 + x, 80.0 + y]) - turn(face, a[None]).mean(1)[0]
    size = torch.tensor([200.0, 160.0])
    first = align(draw(160, 200, *still), face / size, TEMPLATE, 24)
    second = align(draw(160, 200, a, b), (turn(face, a[None]) + b) / size, TEMPLATE, 24)
    assert (first - second).abs().max() < 0.03


def test_a_crop_of_whole_pixels_is_those_pixels() -> None:
    images = torch.rand(1, 3, 32, 64)
    crop = crop_boxes(images, torch.tensor([[0.25, 0.25, 0.5, 0.75]]), margin=0.0, size=16)
    assert torch.allclose(crop, images[:, :, 8:24, 16:32], atol=1e-5)


def test_a_crop_does_not_depend_on_its_neighbours_in_the_batch() -> None:
    images = torch.rand(2, 3, 128, 128)
    large_small = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.1, 0.1, 0.2, 0.2]])
    together = crop_boxes(images, large_small, margin=0.1, size=20)
    alone = [crop_boxes(images[n : n + 1], large_small[n : n + 1], 0.1, 20) for n in (0, 1)]
    assert torch.equal(together, torch.cat(alone))


def test_shrinking_averages_instead_of_aliasing() -> None:
    checks = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    images = checks.float().expand(1, 3, -1, -1)
    crop = crop_boxes(images, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), margin=0.0, size=16)
    assert (crop - 0.5).abs().max() < 1e-5


def save_tiny(folder: Path, *, template: bool = True) -> None:
    shared = {"image_size": 24, "patch_size": 8, "hidden_size": 16, "intermediate_size": 32}
    shared |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    aligned = {"template_xy01": TEMPLATE.tolist()} if template else {}
    torch.manual_seed(0)
    embedder = ViTForImageClassification(ViTConfig(**shared, num_labels=8, **aligned))
    landmarker = ViTForImageClassification(ViTConfig(**shared, num_labels=10, box_margin=0.2))
    landmarker.classifier.weight.data.zero_()
    landmarker.classifier.bias.data.copy_(TEMPLATE.ravel())
    for name, model in (("embedder", embedder), ("landmarks", landmarker)):
        model.save_pretrained(folder / name)
        ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder / name)


@pytest.fixture
def analyser(tmp_path: Path) -> FaceAnalyser:
    save_tiny(tmp_path)
    return FaceAnalyser.from_pretrained(str(tmp_path))


def test_landmarks_are_given_in_the_image_not_in_the_crop(analyser: FaceAnalyser) -> None:
    images = [np.zeros((40, 80, 3), np.uint8), np.zeros((64, 64, 3), np.uint8)]
    boxes = np.array([[0.25, 0.25, 0.5, 0.75], [0.0, 0.0, 0.5, 0.5]])
    found = analyser.landmarks(images, boxes)
    # The tiny network always answers with the template: 20 px box, 28 px crop from (16, 6).
    expected = (TEMPLATE * 28 + torch.tensor([16, 6])) / torch.tensor([80, 40])
    assert torch.allclose(found[0], expected, atol=1e-5)
    assert found.shape == (2, 5, 2)


def test_embeddings_are_unit_and_carry_gradients_to_the_image(analyser: FaceAnalyser) -> None:
    images = torch.rand(2, 3, 48, 48, requires_grad=True)
    landmarks = (TEMPLATE / 2 + 0.2).expand(2, -1, -1)
    found = analyser.embed_tensor(analyser.align(images, landmarks))
    (found[0] @ found[1]).backward()
    assert torch.allclose(found.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in analyser.parameters())


def test_pictures_and_tensors_embed_alike(analyser: FaceAnalyser) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (n, n + 8, 3), dtype=np.uint8) for n in (32, 48)]
    landmarks = (TEMPLATE / 2 + 0.2).expand(2, -1, -1)
    found = analyser.embed(images, landmarks)
    for n, image in enumerate(images):
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        alone = analyser.embed_tensor(analyser.align(tensor, landmarks[n : n + 1]))
        assert torch.allclose(found[n], alone[0], atol=1e-5)


def test_no_faces_give_empty_results(analyser: FaceAnalyser) -> None:
    assert analyser.landmarks([], np.zeros((0, 4))).shape == (0, 5, 2)
    assert analyser.embed([], torch.zeros(0, 5, 2)).shape == (0, 8)


def test_wrong_numbers_of_boxes_and_wrong_images_are_refused(analyser: FaceAnalyser) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="one face in each"):
        analyser.landmarks([image], np.zeros((2, 4)))
    with pytest.raises(UserError, match="uint8 RGB"):
        analyser.landmarks([image.astype(np.float32)], np.zeros((1, 4)))


def test_a_checkpoint_without_template_is_refused(tmp_path: Path) -> None:
    save_tiny(tmp_path, template=False)
    with pytest.raises(UserError, match="template_xy01"):
        FaceAnalyser.from_pretrained(str(tmp_path))
