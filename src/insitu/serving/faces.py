"""Faces in references, found where a method needs to know where they are."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.methods import Request
from insitu.params import Params
from insitu.perception.face_finder import FaceFinder, ZeroShotFaceFinder

MARGIN = 0.5
"""Around a close-up, in its sides."""
LANDMARKS = "reference_landmarks_xy01"
"""Of a placement: what some methods need."""


def with_landmarks(request: Request, find: Callable[[], FaceFinder]) -> Request:
    """References without landmarks get those of their best face.

    Args:
        find: the finder, which is loaded only where it is needed.

    Raises:
        UserError: a reference without landmarks shows no face.
    """
    placements = list(request.placements)
    for k, placement in enumerate(placements):
        if placement.reference is None or placement.reference_landmarks_xy01 is not None:
            continue
        finder = find()
        points = _landmarks(finder, placement.reference)
        if points is None:
            raise UserError(
                f"The reference of placement {k + 1} was given without landmarks.",
                f"{finder.name} finds no face in it.",
                "Give a picture that shows the face, or its reference_landmarks.",
            )
        placements[k] = replace(placement, reference_landmarks_xy01=points)
    return replace(request, placements=tuple(placements))


def _landmarks(
    finder: FaceFinder, picture: NDArray[np.uint8]
) -> tuple[tuple[float, float], ...] | None:
    """Of the best face; a close-up, which detectors miss, is looked at once more from afar."""
    height, width = picture.shape[:2]
    for margin in (0, MARGIN):
        x, y = round(width * margin), round(height * margin)
        seen = cv2.copyMakeBorder(picture, y, y, x, x, cv2.BORDER_REPLICATE)
        (faces,) = finder.find([np.asarray(seen, np.uint8)])
        if faces:
            points = faces[0].landmarks_xy01 * (width + 2 * x, height + 2 * y) - (x, y)
            shares = np.clip(points / (width, height), 0, 1)
            return tuple((float(x), float(y)) for x, y in shares)
    return None


def face_finder(params: Params) -> FaceFinder:
    """The one that `perception.faces` names."""
    if params.perception.faces == "insightface":
        from pathlib import Path

        from insitu.perception.insightface import InsightFace

        files = params.perception.insightface
        assert files is not None  # the settings ask for it
        return InsightFace.from_files(
            detector=Path(files.detector.path), detector_sha256=files.detector.sha256,
            embedder=Path(files.embedder.path), embedder_sha256=files.embedder.sha256,
        )  # fmt: skip
    detector, faces = params.models.detector, params.models.face
    return ZeroShotFaceFinder.from_pretrained(
        detector.path, faces.path, threshold=params.perception.face,
        detector_revision=detector.revision, faces_revision=faces.revision,
    )  # fmt: skip
