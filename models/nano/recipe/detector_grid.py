"""The detector's picture: what it finds in held-out scenes, asked for everything it knows."""

from pathlib import Path

import cv2
import numpy as np

from insitu.evaluation.checkpoints.detector import QUERIES, held_out, right_boxes
from insitu.perception.detector import Detection, ZeroShotDetector

from . import grid

COLUMNS, ROWS = 6, 4
SIDE = 192  # pixels of a tile


def write(detector: ZeroShotDetector, path: Path, *, threshold: float) -> None:
    """Write scenes with all boxes above the threshold, right ones green, wrong ones red."""
    cases = held_out(COLUMNS * ROWS, seed=1)
    found = detector.detect([case.image for case in cases], QUERIES, threshold=threshold)
    tiles = []
    for case, detections in zip(cases, found, strict=True):
        right = right_boxes(case, detections)
        page = cv2.resize(case.image, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)
        for detection, hit in zip(detections, right, strict=True):
            _draw_box(page, detection, grid.RIGHT if hit else grid.WRONG)
        missed = sum(target.visible for target in case.targets) - sum(right)
        tiles.append(grid.labelled(grid.framed(page, SIDE), f"{sum(right)} right, {missed} missed"))
    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    grid.write_grid(path, rows)


def _draw_box(page: np.ndarray, detection: Detection, colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = (round(v * (SIDE - 1)) for v in detection.box_xyxy01)
    cv2.rectangle(page, (left, top), (right, bottom), colour, 1)
    text = f"{detection.query.split(' ', 1)[-1]} {100 * detection.score:.0f}"
    cv2.putText(
        page, text, (left + 2, top + 10), cv2.FONT_HERSHEY_SIMPLEX, 0.34, colour, 1, cv2.LINE_AA
    )
