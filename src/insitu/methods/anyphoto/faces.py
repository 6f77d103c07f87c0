"""What the method looks at faces with: a pinned embedder, upright crops, identity embeddings."""

import numpy as np
import torch
from torch import Tensor, nn

from insitu.backbones import pins
from insitu.backbones.pins import Pin
from insitu.errors import UserError
from insitu.methods import Image
from insitu.methods.anyphoto.canvas import Patch, Points, similarity
from insitu.perception.faces import FaceAnalyser, sample_similarity, to_tensor

LEAST = 2.0
"""Pixels that a face's landmarks must spread over: in less there is no face to see."""


def analyser(pin: Pin, device: torch.device) -> FaceAnalyser:
    """The pinned face embedder. Raises UserError as `pins.load`."""
    found: FaceAnalyser = pins.load(FaceAnalyser, pin, "face", device)
    return found


def template(faces: FaceAnalyser) -> Points:
    """Where the five landmarks lie in an aligned crop, [5, 2] in 0..1 (ArcFace)."""
    return np.array(faces.embedder.config.template_xy01, np.float64)


def in_pixels(landmarks_xy01: Points, height: int, width: int) -> Points:
    return landmarks_xy01 * (width, height)


def require_landmarks(given: object, what: str) -> Points:
    """Five landmarks [5, 2] as numbers.

    Raises:
        UserError: they are not five pairs of finite numbers.
    """
    try:
        points = np.array(given, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise UserError(
            f"The landmarks of {what} are {given!r}.",
            "A face is five points: eyes, nose and corners of the mouth, each x, y in shares of"
            " the picture.",
            "Give five pairs of numbers, left before right as seen in the picture.",
        )
    return points


def require_face(landmarks_xy01: Points, height: int, width: int, what: str) -> None:
    """Refuse landmarks that show no face in a picture of this size.

    Raises:
        UserError: they lie in one place, or outside of the picture.
    """
    points = in_pixels(landmarks_xy01, height, width)
    spread = np.ptp(points, axis=0)
    if spread.max() < LEAST:
        raise UserError(
            f"The landmarks of {what} lie within {spread[0]:.1f} x {spread[1]:.1f} pixels.",
            "There is no face to see in so little.",
            "Give a larger picture of the face, and its own landmarks.",
        )
    middle = landmarks_xy01.mean(0)
    if not ((middle > 0) & (middle < 1)).all():
        raise UserError(
            f"The landmarks of {what} lie around {middle[0]:.2f}, {middle[1]:.2f}.",
            "That is outside of its picture, which reaches from 0 to 1, so there is no face.",
            "Give landmarks in shares of the picture's width and height.",
        )


def crop(faces: FaceAnalyser, image: Image, landmarks_xy01: Points, size: int) -> Patch:
    """The aligned crop (norm-crop) of a face; transparent where it reaches beyond the picture."""
    height, width = image.shape[:2]
    own = in_pixels(landmarks_xy01, height, width)
    a, b = similarity(template(faces), own)
    turn, shift = (torch.tensor([[v.real, v.imag]], dtype=torch.float32) for v in (a, b))
    pixels = sample_similarity(to_tensor(image), turn, shift, size)[0].permute(1, 2, 0)
    steps = (np.arange(size) + 0.5) / size
    seen = a * (steps[None] + 1j * steps[:, None]) + b
    inside = (seen.real > 0) & (seen.real < width) & (seen.imag > 0) & (seen.imag < height)
    in_crop = (own @ (1, 1j) - b) / a * size
    return Patch(
        pixels=np.rint(pixels.numpy().clip(0, 1) * 255).astype(np.uint8),
        alpha=np.where(inside, np.uint8(255), np.uint8(0)),
        landmarks=np.stack([in_crop.real, in_crop.imag], -1),
    )


def around_box(faces: FaceAnalyser, box_xyxy: Points, share: float) -> Points:
    """Landmarks of an upright face in a box, in the box's unit.

    Args:
        box_xyxy: [4], in pixels.
        share: the aligned crop's side over the box's longer side.
    """
    low, high = box_xyxy[:2], box_xyxy[2:]
    side = share * (high - low).max()
    return np.asarray((low + high) / 2 + (template(faces) - 0.5) * side)


def embed(faces: FaceAnalyser, image: Image, landmarks_xy01: Points) -> Tensor:
    """e_k [D], unit (eq. 15)."""
    return faces.embed([image], landmarks_xy01[None])[0]


class Modulation(nn.Sequential):
    """delta_k = MLP(e_k), Linear GELU Linear (eq. 16); the last layer is zero at the start.

    Args:
        numbers: of an embedding.
        width: of what blocks are modulated with, and of the hidden layer.
    """

    def __init__(self, numbers: int, width: int) -> None:
        super().__init__(nn.Linear(numbers, width), nn.GELU(), nn.Linear(width, width))
        for parameter in self[2].parameters():
            nn.init.zeros_(parameter)
