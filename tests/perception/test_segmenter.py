"""Proves that masks fit their boxes: GrabCut on world scenes, SAM on a tiny random checkpoint.

Needs the world, OpenCV and transformers' own classes; no trained weights.
"""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from insitu import world
from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.perception.detector import Box, Image
from insitu.perception.segmenter import (
    GrabCut,
    Mask,
    Sam,
    Segmenter,
    checkpoint_name,
    inscribed_ellipse,
)

MIN_VISIBLE = 1 / 3  # of a thing's own silhouette; of less, no one would ask for a mask


def things(count: int) -> tuple[list[Image], list[Box], list[Mask]]:
    """Images, true boxes and true masks of what `count` scenes of 1 to 3 things show."""
    images, boxes, masks = [], [], []
    for n in range(count):
        rng = world.rng_for("test", "segmenter", n)
        drawn = world.render(world.sample_scene(rng, count=n % 3 + 1), 128)
        for thing in drawn.things:
            if thing.visible >= MIN_VISIBLE:
                images.append(drawn.image)
                boxes.append(thing.box_xyxy01)
                masks.append(thing.mask)
    return images, boxes, masks


def overlap(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def jittered(box: Box, rng: np.random.Generator) -> Box:
    """Each side moved by 5% of the box's extent, in standard deviations."""
    left, top, right, bottom = box
    wrong = rng.normal(0, 0.05, 4) * np.tile((right - left, bottom - top), 2)
    moved = np.clip(np.array(box) + wrong, 0, 1).tolist()
    return moved[0], moved[1], moved[2], moved[3]


# Measured on 200 other scenes: see the figures in GrabCut's docstring.
@pytest.mark.parametrize(("exact", "least"), [(True, 0.82), (False, 0.80)])
def test_grabcut_finds_what_the_world_drew(exact: bool, least: float) -> None:
    images, boxes, truth = things(16)
    rng = np.random.default_rng(0)
    if not exact:
        boxes = [jittered(box, rng) for box in boxes]
    masks = GrabCut().segment(images, boxes)
    ellipses = [inscribed_ellipse(box, 128, 128) for box in boxes]
    mean = np.mean([overlap(*pair) for pair in zip(masks, truth, strict=True)])
    plain = np.mean([overlap(*pair) for pair in zip(ellipses, truth, strict=True)])
    assert mean > least
    assert mean > plain + 0.1


def test_grabcut_repeats_itself_on_any_number_of_threads() -> None:
    images, boxes, _ = things(2)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = GrabCut().segment(images, boxes)
        cv2.setNumThreads(4)
        cv2.setRNGSeed(123)  # what others drew before must not matter
        backwards = GrabCut().segment(images[::-1], boxes[::-1])[::-1]
    finally:
        cv2.setNumThreads(threads)
    assert all(map(np.array_equal, alone, backwards))


def test_masks_have_their_images_shapes_and_images_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    shapes = [(40, 90, 3), (90, 40, 3), (16, 16, 3), (300, 500, 3)]
    images = [rng.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    before = [image.copy() for image in images]
    masks = GrabCut().segment(images, [(0.2, 0.3, 0.7, 0.8)] * 4)
    assert [mask.shape for mask in masks] == [shape[:2] for shape in shapes]
    assert all(mask.dtype == np.bool_ and mask.any() for mask in masks)
    assert all(map(np.array_equal, images, before))


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.5, 0.5, 0.501, 0.501), (0, 0.2, 1, 0.21)])
@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 1, 3), (1, 70, 3)])
def test_the_largest_and_the_smallest_boxes_have_a_mask(
    box: Box, shape: tuple[int, int, int]
) -> None:
    flat = np.full(shape, 90, np.uint8)
    noisy = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for mask in GrabCut().segment([flat, noisy], [box, box]):
        assert mask.shape == shape[:2]
        assert mask.any()


def test_where_nothing_is_found_the_ellipse_is_the_mask_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    image, box = np.full((40, 60, 3), 90, np.uint8), (0.25, 0.25, 0.75, 0.75)
    with caplog.at_level(logging.WARNING):
        (mask,) = GrabCut().segment([image], [box])
    assert not GrabCut().cut(image, box).any()
    assert "found nothing" in caplog.text
    # Half axes of 15 and 10 pixels.
    assert mask.sum() == pytest.approx(np.pi * 15 * 10, rel=0.02)
    assert mask[20, 16] and mask[11, 30] and not mask[11, 16]


def test_a_plain_thing_is_cut_out_exactly_and_specks_are_dropped() -> None:
    image = np.full((80, 80, 3), (200, 190, 60), np.uint8)
    image[24:56, 20:60] = (40, 60, 160)
    image[24:36, 20:40] = (200, 190, 60)  # a corner is missing
    image[26:28, 24:26] = (40, 60, 160)  # a speck in that corner
    (mask,) = GrabCut(smallest_part=0.05).segment([image], [(0.25, 0.3, 0.75, 0.7)])
    truth = np.zeros((80, 80), np.bool_)
    truth[24:56, 20:60] = True
    truth[24:36, 20:40] = False
    assert overlap(mask, truth) > 0.97
    assert not mask[24:30, 22:30].any()


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    pixels = {"image_size": 64, "patch_size": 8}
    shape = {"hidden_size": 16, "num_attention_heads": 2}
    config = SamConfig(
        vision_config=SamVisionConfig(
            **shape, **pixels, num_hidden_layers=2, output_channels=16, num_pos_feats=8,
            window_size=4, global_attn_indexes=[1], initializer_range=0.5,
        ),
        prompt_encoder_config=SamPromptEncoderConfig(
            hidden_size=16, mask_input_channels=4, **pixels
        ),
        mask_decoder_config=SamMaskDecoderConfig(
            **shape, mlp_dim=32, num_hidden_layers=1, iou_head_hidden_dim=16
        ),
        initializer_range=0.5,
    )  # fmt: skip
    SamModel(config).save_pretrained(path)
    processor = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    SamProcessor(processor).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sam(sam_folder: Path) -> Sam:
    return Sam.from_pretrained(sam_folder)


SAM_BOXES: list[Box] = [(0.1, 0.1, 0.6, 0.9), (0.5, 0.2, 0.9, 0.7), (0.0, 0.0, 1.0, 1.0)]


def noise(*shape: int) -> Image:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def test_sam_embeds_a_picture_once_and_answers_each_box_as_if_alone(
    sam: Sam, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide, high = noise(40, 80, 3), noise(80, 48, 3)
    alone = [sam.segment([wide], [box])[0] for box in SAM_BOXES]
    alone.append(sam.segment([high], SAM_BOXES[:1])[0])
    seen = []
    forward = SamModel.forward
    monkeypatch.setattr(
        SamModel,
        "forward",
        lambda self, **inputs: seen.append(inputs["input_boxes"].shape) or forward(self, **inputs),
    )
    # The middle one is an equal picture, not the same object.
    together = sam.segment([wide, wide.copy(), wide, high], [*SAM_BOXES, SAM_BOXES[0]])
    assert seen == [(1, 3, 4), (1, 1, 4)]
    assert [mask.shape for mask in together] == [(40, 80)] * 3 + [(80, 48)]
    assert all(map(np.array_equal, together, alone))
    assert all(mask.dtype == np.bool_ and mask.any() for mask in together)


def test_sam_takes_the_mask_it_believes_in_most(sam: Sam) -> None:
    image, box = noise(48, 64, 3), (0.2, 0.2, 0.8, 0.8)
    pixels = [[[0.2 * 64, 0.2 * 48, 0.8 * 64, 0.8 * 48]]]
    inputs = sam.processor(images=[image], input_boxes=pixels, return_tensors="pt")
    inputs["input_boxes"] = inputs["input_boxes"].float()
    with torch.no_grad():
        outputs = sam.model(pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"])
    (masks,) = sam.processor.post_process_masks(
        outputs.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    best = masks[0, outputs.iou_scores[0, 0].argmax()].numpy()
    others = [mask.numpy() for mask in masks[0]]
    assert not all(np.array_equal(best, mask) for mask in others)  # or the choice proves nothing
    (found,) = sam.segment([image], [box])
    assert np.array_equal(found, best)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sam_loads_in_any_precision(sam_folder: Path, dtype: torch.dtype) -> None:
    segmenter = Sam.from_pretrained(sam_folder, dtype=dtype)
    (mask,) = segmenter.segment([noise(32, 32, 3)], SAM_BOXES[:1])
    assert mask.shape == (32, 32)


def test_names_tell_method_and_weights_apart(sam: Sam, sam_folder: Path) -> None:
    segmenters: list[Segmenter] = [GrabCut(), GrabCut(margin=0.5), sam]
    assert len({each.name for each in segmenters}) == 3
    assert cv2.__version__ in segmenters[0].name
    assert sam.name == f"sam {weights_digest(sam_folder)[:16]}"
    assert checkpoint_name("owner/model", "0a1b") == "owner/model@0a1b"


@pytest.mark.parametrize(
    "box",
    [
        (0.5, 0.2, 0.5, 0.8),  # no width
        (0.2, 0.8, 0.8, 0.2),  # upside down
        (-0.1, 0.2, 0.5, 0.8),
        (0.2, 0.2, 1.2, 0.8),
        (0.2, float("nan"), 0.5, 0.8),
        (1.0, 0.2, 1.0000005, 0.8),  # beside the picture, by less than rounding
    ],
)
def test_empty_boxes_and_boxes_outside_are_refused(sam: Sam, box: Box) -> None:
    segmenters: list[Segmenter] = [GrabCut(), sam]
    for segmenter in segmenters:
        with pytest.raises(UserError, match="holds no thing"):
            segmenter.segment([noise(32, 32, 3)], [box])


def test_a_float32_box_that_rounds_over_the_edge_is_taken() -> None:
    over = float(np.float32(1) + np.finfo(np.float32).eps)
    (mask,) = GrabCut().segment([noise(32, 32, 3)], [(0.5, 0.5, over, over)])
    assert mask.any()


def test_wrong_images_and_unequal_numbers_are_refused(sam: Sam) -> None:
    segmenters: list[Segmenter] = [GrabCut(), sam]
    for segmenter in segmenters:
        with pytest.raises(UserError, match="nth image"):
            segmenter.segment([noise(32, 32, 3)], SAM_BOXES)
        with pytest.raises(UserError, match="uint8 RGB"):
            segmenter.segment([noise(32, 32)], SAM_BOXES[:1])
        assert segmenter.segment([], []) == []
