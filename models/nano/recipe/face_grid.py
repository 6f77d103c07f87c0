"""The face checkpoint's picture grid: pairs with their cosine, and landmarks, failures included."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from insitu.evaluation.checkpoints.face import (
    FAR,
    LARGE,
    SMALL,
    FaceView,
    embed,
    held_out,
    landmark_errors,
    locate,
)
from insitu.perception.faces import FaceAnalyser, crop_boxes, square, to_tensor

from . import grid
from .face_data import BOX_MARGIN, SIZE, to_uint8

EACH = 3
"""Examples of each kind in a row."""


def draw_grid(folder: Path) -> None:
    """Held-out pairs with their cosine, the worst of each kind among them; found landmarks."""
    analyser = FaceAnalyser.from_pretrained(str(folder))
    rows: list[list[np.ndarray]] = []
    for size in (LARGE, SMALL):
        shots = [held_out(100, size, seed=0, shot=shot) for shot in (0, 1)]
        points = [locate(analyser, views) for views in shots]
        found = [embed(analyser, v, p) for v, p in zip(shots, points, strict=True)]
        cosines = (found[0] @ found[1].T).numpy()
        rows += _pair_rows(analyser, shots, points, cosines)
        worst = landmark_errors(points[0], shots[0]).argsort()[::-1]
        picked = [*worst[:EACH], *worst[::-1][:EACH]]
        rows.append([_with_landmarks(shots[0][n], points[0][n]) for n in picked])
    grid.write_grid(folder / "grid.png", rows)


def _pair_rows(
    analyser: FaceAnalyser, shots: list[list[FaceView]], points: list[Tensor], cosines: np.ndarray
) -> list[list[np.ndarray]]:
    """Pairs of one person and of two in a row: typical ones, then the worst."""
    own = np.eye(len(cosines), dtype=bool)
    threshold = np.quantile(cosines[~own], 1 - FAR)
    same = np.argsort(cosines[own])
    others = np.argsort(np.where(own, -2, cosines), axis=None)[::-1][: own.size - len(own)]
    middle = slice(len(same) // 2, len(same) // 2 + EACH)
    centre = slice(len(others) // 2, len(others) // 2 + EACH)
    rows = []
    for ours, theirs in ((same[middle], others[centre]), (same[:EACH], others[:EACH])):
        pairs = [(n, n) for n in ours] + [divmod(int(n), len(cosines)) for n in theirs]
        rows.append(
            [
                _pair_tile(analyser, shots, points, pair, float(cosines[pair]), threshold)
                for pair in pairs
            ]
        )
    return rows


def _pair_tile(
    analyser: FaceAnalyser,
    shots: list[list[FaceView]],
    points: list[Tensor],
    pair: tuple[int, int],
    cosine: float,
    threshold: float,
) -> np.ndarray:
    right = (cosine > threshold) == (pair[0] == pair[1])
    crops = [
        to_uint8(analyser.align(to_tensor(views[n].image), found[n][None]))
        for views, found, n in zip(shots, points, pair, strict=True)
    ]
    tiles = [grid.framed(crop, 2 * SIZE, right) for crop in crops]
    return grid.labelled(np.concatenate(tiles, axis=1), f"{cosine:.2f} of {threshold:.2f}")


def _with_landmarks(view: FaceView, found_52: Tensor) -> np.ndarray:
    """Box crop with found points (green) over true ones (white), as wide as a pair."""
    box = torch.from_numpy(view.box_xyxy01.astype(np.float32))[None]
    size, (height, width) = 4 * SIZE, view.image.shape[:2]
    crop = np.ascontiguousarray(to_uint8(crop_boxes(to_tensor(view.image), box, BOX_MARGIN, size)))
    side, corner = square(box, BOX_MARGIN, height, width)
    for points, colour in ((view.landmarks_xy01, grid.NEUTRAL), (found_52.numpy(), grid.RIGHT)):
        for x, y in (points * (width, height) - corner[0].numpy()) / side.item() * size:
            cv2.circle(crop, (round(float(x)), round(float(y))), 3, colour, 1, cv2.LINE_AA)
    return grid.framed(crop, 4 * SIZE + 2 * grid.FRAME)
