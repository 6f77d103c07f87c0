"""Proves that the detector checkpoint loads with plain classes and is as good as its card says.

Needs models/nano/detector, models/nano/clip and the world. Tests of the set loss need neither.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, OwlViTForObjectDetection, pipeline

from insitu import world
from insitu.digest import weights_digest
from insitu.evaluation.checkpoints import detector as measured
from recipe import detection_loss, detector, detector_data

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
FOLDER = NANO / "detector"


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads((FOLDER / "card.json").read_text())


def test_plain_class_loads_all_weights(card: dict) -> None:
    _, report = OwlViTForObjectDetection.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert card["weights_digest"] == weights_digest(FOLDER)
    assert card["world_version"] == world.WORLD_VERSION
    assert card["weights_bytes"] < 6e6


def test_plain_pipeline_finds_a_mug() -> None:
    rng = world.rng_for("held-out", "one-mug")
    scene = world.sample_scene(
        rng, things=[world.sample_subject(rng, category="mug")], style="photo"
    )
    rendering = world.render(scene)
    detect = pipeline("zero-shot-object-detection", model=str(FOLDER))
    best = detect(Image.fromarray(rendering.image), candidate_labels=["a mug", "a cat"])[0]
    assert best["label"] == "a mug"
    left, top, right, bottom = (v * 64 for v in rendering.things[0].box_xyxy01)
    found = [best["box"][key] for key in ("xmin", "ymin", "xmax", "ymax")]
    assert np.abs(np.array(found) - (left, top, right, bottom)).max() < 8


def test_card_is_reproduced_on_a_small_sample(card: dict) -> None:
    figures = measured.figures(FOLDER, count=80, seed=1)
    assert figures.keys() == card["figures"].keys()
    for name, figure in figures.items():
        stated = card["figures"][name]
        assert figure.low <= stated["high"], name
        assert stated["low"] <= figure.high, name


def test_detector_starts_as_clip() -> None:
    clip = CLIPModel.from_pretrained(NANO / "clip", dtype=torch.float32).eval()
    model = detector.from_clip(clip).eval()
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        mine = model.owlvit.get_image_features(pixel_values=pixels).pooler_output
        theirs = clip.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(mine, theirs)


def corpus(count: int) -> detector_data.Corpus:
    drawn = [detector_data.draw(index) for index in range(count)]
    data = {key: np.stack([sample[key] for sample in drawn]) for key in drawn[0]}
    return detector_data.Corpus(data, limit=16)  # type: ignore[arg-type]


def test_batch_asks_for_every_kind_and_flips_boxes_with_images() -> None:
    scenes = corpus(12)
    batch = scenes.batch(3, 12)
    asked = [scenes.texts[number] for number in batch.queries]
    assert tuple(asked[: len(measured.QUERIES)]) == measured.QUERIES
    assert batch.truth.any(axis=-1)[batch.learned].all()
    assert not (batch.learned & batch.ignored).any()
    for image, original, boxes, straight in zip(
        batch.images, scenes.images, batch.boxes, scenes.boxes, strict=True
    ):
        if np.array_equal(image, original):
            assert np.array_equal(boxes, straight)
        else:
            assert np.array_equal(image, original[:, ::-1])
            used = straight[:, 2] > 0
            assert np.allclose(boxes[used][:, [0, 2]], 1 - straight[used][:, [2, 0]])
            assert (boxes[used][:, 0] < boxes[used][:, 2]).all()


def loss_of(logits: torch.Tensor, boxes: torch.Tensor, **changes: torch.Tensor) -> dict:
    truth = torch.tensor([[[1, 0], [0, 1]]], dtype=torch.bool)
    given = {
        "targets_NO4": torch.tensor([[[0.0, 0.0, 0.5, 0.5], [0.5, 0.5, 1.0, 1.0]]]),
        "learned_NO": torch.ones(1, 2, dtype=torch.bool),
        "ignored_NO": torch.zeros(1, 2, dtype=torch.bool),
        "truth_NOQ": truth,
    }
    return detection_loss.set_loss(logits, boxes, **(given | changes))


SET_TERMS = ("queries", "distance", "giou")
RIGHT_BOXES = torch.tensor(
    [[[0.75, 0.75, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1]]]
)
RIGHT_LOGITS = torch.tensor([[[-9.0, 9.0], [-9.0, -9.0], [9.0, -9.0], [-9.0, -9.0]]])


def test_set_loss_vanishes_for_the_right_answer_in_any_order() -> None:
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        loss = loss_of(RIGHT_LOGITS[:, order], RIGHT_BOXES[:, order])
        assert sum(loss[term] for term in SET_TERMS).item() == pytest.approx(0, abs=1e-3)


def test_set_loss_punishes_a_second_answer() -> None:
    doubled = RIGHT_LOGITS.clone()
    doubled[0, 1, 0] = 9.0
    assert loss_of(doubled, RIGHT_BOXES)["queries"] > 1


def test_hidden_objects_are_neither_found_nor_missed() -> None:
    only_first = torch.tensor([[True, False]])
    for logit in (-9.0, 9.0):
        logits = RIGHT_LOGITS.clone()
        logits[0, 0, 1] = logit
        loss = loss_of(logits, RIGHT_BOXES, learned_NO=only_first, ignored_NO=~only_first)
        assert sum(loss[term] for term in SET_TERMS).item() == pytest.approx(0, abs=1e-3)


def test_names_are_learned_where_a_patch_shows_one_object_only() -> None:
    # Sixteen patches; the first object owns the left half, both share the upper right quarter.
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 0.5], [0.5, 0.0, 1.0, 1.0]]])
    truth = torch.tensor([[[1, 0, 1, 0], [0, 1, 0, 0]]], dtype=torch.bool)
    learned = torch.ones(1, 2, dtype=torch.bool)
    logits = torch.zeros(1, 16, 4, requires_grad=True)
    loss = detection_loss.name_loss(logits, boxes, learned, truth)
    loss.backward()
    assert logits.grad is not None
    taught = logits.grad.abs().sum(dim=-1).view(4, 4) > 0
    assert taught[:2].tolist() == [[True, True, False, False]] * 2
    assert taught[2:].tolist() == [[False, False, True, True]] * 2
    # Right queries do not compete with one another: two wrong ones each, or three.
    expected = (8 * np.log(3) + 4 * np.log(4)) / 12
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    nobody = detection_loss.name_loss(logits, boxes, ~learned, truth)
    assert float(nobody) == 0


def test_giou_of_known_boxes() -> None:
    unit = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert detection_loss.giou(unit, unit) == pytest.approx(1)
    # Disjoint unit squares, one apart: no overlap, a third of the hull is empty.
    assert detection_loss.giou(unit, unit + torch.tensor([2.0, 0, 2, 0])) == pytest.approx(-1 / 3)
