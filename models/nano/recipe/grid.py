"""Picture grids of held-out examples, right ones framed green and wrong ones red."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

RIGHT, WRONG, NEUTRAL = (40, 170, 70), (215, 45, 45), (255, 255, 255)
FRAME = 3


def framed(image_HWC: np.ndarray, size: int, right: bool | None = None) -> np.ndarray:
    """The image enlarged to `size` px without smoothing, in a frame that tells right from wrong."""
    colour = NEUTRAL if right is None else RIGHT if right else WRONG
    inner = cv2.resize(image_HWC, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    page = np.full((size + 2 * FRAME, size + 2 * FRAME, 3), colour, np.uint8)
    page[FRAME:-FRAME, FRAME:-FRAME] = inner
    return page


def labelled(image_HWC: np.ndarray, text: str) -> np.ndarray:
    """The image with a line of black text below it."""
    strip = np.full((14, image_HWC.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 10), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([image_HWC, strip])


def write_grid(path: Path, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write equally tall tiles, row by row; shorter rows are filled with white."""
    lines = [np.concatenate(row, axis=1) for row in rows]
    width = max(line.shape[1] for line in lines)
    page = np.concatenate([_widened(line, width) for line in lines])
    temporary = path.with_name(f".{path.stem}.tmp.png")
    # 64 colours: a fifth of the bytes, which the checkpoints need more, and no visible loss.
    Image.fromarray(page).quantize(64).save(temporary, optimize=True)
    os.replace(temporary, path)


def _widened(line: np.ndarray, width: int) -> np.ndarray:
    missing = width - line.shape[1]
    return np.pad(line, ((0, 0), (0, missing), (0, 0)), constant_values=255)
