"""Proves that the face checkpoint loads with the plain class and is as good as its card says.

Needs models/nano/face and the world; a minute of drawing at most. Unit tests of the recipe need
neither weights nor training.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTForImageClassification

from insitu import world
from insitu.digest import weights_digest
from insitu.evaluation.checkpoints import face
from insitu.perception.faces import FaceAnalyser, to_tensor
from recipe import face as recipe
from recipe import face_data

FOLDER = Path(__file__).resolve().parents[2] / "models" / "nano" / "face"


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text())


@pytest.mark.parametrize("part", ["embedder", "landmarks"])
def test_plain_class_loads_without_missing_or_unexpected_keys(part: str, card: dict) -> None:
    model, report = ViTForImageClassification.from_pretrained(
        FOLDER / part, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model(torch.zeros(1, 3, 40, 40)).logits.isfinite().all()
    assert card["weights_digest"] == weights_digest(FOLDER)
    assert card["world_version"] == world.WORLD_VERSION


def test_card_is_reproduced_on_a_small_sample(card: dict) -> None:
    measured = face.figures(FOLDER, count=100, seed=1)
    assert measured.keys() == card["figures"].keys()
    for name, figure in measured.items():
        stated = card["figures"][name]
        # A hundred people give a noisy 1% threshold, so the intervals get some room.
        assert figure.low - 0.02 <= stated["high"], name
        assert stated["low"] - 0.02 <= figure.high, name


def test_moving_a_picture_by_its_gradient_brings_a_face_nearer_to_another() -> None:
    analyser = FaceAnalyser.from_pretrained(str(FOLDER))
    first, second = face.held_out(2, face.LARGE, seed=2, shot=0)
    points = face.locate(analyser, [first, second])
    target = face.embed(analyser, [second], points[1:])
    image = to_tensor(first.image).requires_grad_()
    before = (analyser.embed_tensor(analyser.align(image, points[:1])) * target).sum()
    (gradient,) = torch.autograd.grad(before, image)
    moved = image + 0.01 * gradient.sign()
    after = (analyser.embed_tensor(analyser.align(moved, points[:1])) * target).sum()
    assert after > before + 0.05


def test_tar_at_far_on_known_scores() -> None:
    cosines = np.full((20, 20), -1.0)
    np.fill_diagonal(cosines, 1.0)
    assert face.tar_at_far(cosines) == 1.0
    cosines[np.arange(10), np.arange(10)] = -1.0
    assert face.tar_at_far(cosines) == 0.5


def test_views_have_faces_of_the_asked_width_inside_the_picture() -> None:
    person = world.sample_face(world.rng_for("test", "face"))
    for size in (face.SMALL, face.LARGE):
        for n in range(4):
            view = face.draw_face(person, world.rng_for("test", "view", n), size)
            assert size[0] <= view.width_px <= size[1]
            assert view.box_xyxy01.min() >= 0
            assert view.box_xyxy01.max() <= 1


def test_corpus_points_lie_where_the_true_landmarks_are() -> None:
    drawn = face_data.draw_person(3, views=4)
    assert drawn["aligned"].shape == drawn["boxed"].shape == (4, 40, 40, 3)
    left, right, nose, *_ = drawn["points"].mean(0)
    assert 0.2 < left[0] < nose[0] < right[0] < 0.8
    assert left[1] < nose[1]


def test_angular_margin_without_margin_is_a_cosine_softmax_and_margin_makes_it_harder() -> None:
    head = recipe.AngularMargin(5, 8)
    found, label = torch.randn(4, 8), torch.tensor([0, 1, 2, 3])
    cosines = torch.nn.functional.cosine_similarity(found[:, None], head.centres_CD[None], dim=-1)
    expected = torch.nn.functional.cross_entropy(10 * cosines, label)
    assert head(found, label, 10.0, 0.0).item() == pytest.approx(expected.item(), abs=1e-4)
    assert head(found, label, 10.0, 0.3) > expected
