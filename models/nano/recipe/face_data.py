"""What the face recipe trains on: aligned crops, box crops and true landmarks of drawn people.

Faces as small as those of a group photo at 64 px are drawn small and enlarged, so that the
networks know them.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from insitu import world
from insitu.evaluation.checkpoints.face import FaceView, draw_view, people_scene
from insitu.perception.faces import align, crop_boxes, square, to_tensor

SIZE = 40
TEMPLATE_XY01 = ((0.34, 0.50), (0.66, 0.50), (0.50, 0.615), (0.355, 0.72), (0.645, 0.72))
"""Eyes, nose, mouth corners in the aligned crop, which then shows the head from hair to chin."""
BOX_MARGIN = 0.2
PHOTO_SIZES = (24, 32, 40, 56, 80, 96)
"""Sides in pixels of photos of a face, which is about 0.6 of that wide."""
SCENE_SIZES = (64, 96, 128)
"""Sides in pixels of scenes, where a face is 0.2 to 0.35 of that wide."""
SCENES = 0.35
"""Share of views out of scenes with other people; the rest are photos of the face."""


def draw_person(number: int, *, views: int) -> dict[str, np.ndarray]:
    """Corpus sample: views of person `number`.

    `aligned` uint8 [views, 40, 40, 3] by slightly wrong landmarks, `boxed` uint8 of the same shape
    around a slightly wrong box, and `points` float32 [views, 5, 2], true landmarks in `boxed`.
    """
    face = world.sample_face(world.rng_for("face-train", number))
    rows = []
    for shot in range(views):
        rng = world.rng_for("face-train-view", number, shot)
        rows.append(_crops(_view(face, rng), rng))
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _view(face: world.Face, rng: np.random.Generator) -> FaceView:
    while True:
        scene = people_scene(face, rng) if rng.random() < SCENES else None
        pixels = int(rng.choice(PHOTO_SIZES if scene is None else SCENE_SIZES))
        view = draw_view(face, scene, int(rng.integers(2**31)), pixels)
        if view is not None:
            return view


def _crops(view: FaceView, rng: np.random.Generator) -> dict[str, np.ndarray]:
    image = to_tensor(_soften(view.image, rng))
    box = view.box_xyxy01
    width = box[2] - box[0]
    # About what the landmarker gets wrong: 2.5% of the face's width, more in one face of four.
    wrong = width * (0.025 if rng.random() < 0.75 else 0.05)
    noisy = view.landmarks_xy01 + rng.normal(0, wrong, (5, 2))
    jittered = box + rng.uniform(-0.12, 0.12, 4) * width
    jittered_N4 = torch.from_numpy(jittered.astype(np.float32))[None]
    template = torch.tensor(TEMPLATE_XY01)
    aligned = align(image, torch.from_numpy(noisy.astype(np.float32))[None], template, SIZE)
    boxed = crop_boxes(image, jittered_N4, BOX_MARGIN, SIZE)
    height, wide = view.image.shape[:2]
    side, corner = square(jittered_N4, BOX_MARGIN, height, wide)
    points = (view.landmarks_xy01 * (wide, height) - corner[0].numpy()) / side.item()
    return {
        "aligned": to_uint8(aligned),
        "boxed": to_uint8(boxed),
        "points": points.astype(np.float32),
    }


def _soften(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One picture of five is mildly blurred, as generated ones are."""
    if rng.random() < 0.8:
        return image_HWC
    return cv2.GaussianBlur(image_HWC, (0, 0), float(rng.uniform(0.3, 0.7)))


def to_uint8(crop_13HW: Tensor) -> np.ndarray:
    """[1, 3, S, S] in 0..1 -> uint8 [S, S, 3]."""
    return (crop_13HW[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
