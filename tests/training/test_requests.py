"""Requests come back from their files with all that they may hold. Needs nothing trained."""

from pathlib import Path

import numpy as np

from insitu.methods import Placement, Request
from insitu.training.requests import load, save

FACE = ((0.4, 0.4), (0.6, 0.4), (0.5, 0.5), (0.42, 0.6), (0.58, 0.6))


def test_requests_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    photo, reference, style = (rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(3))
    mask = np.eye(8, dtype=np.uint8) * 255
    full = Placement(
        box_xyxy01=(0.0, 0.25, 0.5, 1.0), mask=mask, reference=reference, prompt="a mug",
        landmarks_xy01=FACE, reference_landmarks_xy01=FACE,
    )  # fmt: skip
    bare = Placement(box_xyxy01=(0.1, 0.1, 0.9, 0.9))
    asked = [
        Request(image=photo, placements=(full, bare), prompt="a", seed=3, style=style),
        Request(image=photo, placements=(), prompt="b", seed=4, negative_prompt="c"),
    ]
    save(asked, tmp_path)
    for request, found in zip(asked, load(tmp_path), strict=True):
        np.testing.assert_equal(
            vars(found) | {"placements": None}, vars(request) | {"placements": None}
        )
        for one, other in zip(request.placements, found.placements, strict=True):
            np.testing.assert_equal(vars(other), vars(one))
