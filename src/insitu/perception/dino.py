"""Identity features of things: is this the same mug?

Any DINOv2-like backbone of transformers works: the class token after the last norm (the pooled
output), scaled to unit length, is the embedding; the cosine of two is the DINO score of
DreamBooth (Ruiz et al. 2023, sec. 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, PreTrainedModel
from transformers.image_processing_utils import BaseImageProcessor

from insitu.errors import UserError


def crop_square(
    image_HWC: np.ndarray, box_xyxy01: np.ndarray | Sequence[float], size: int, margin: float = 0.1
) -> np.ndarray:
    """The square around a box, resized to uint8 [size, size, 3].

    The longer side of the box grows by `margin` on each side; where the square leaves the image,
    the image's border is repeated, so that the thing keeps its proportions and its place.
    """
    height, width = image_HWC.shape[:2]
    x0, y0, x1, y1 = np.asarray(box_xyxy01, np.float64) * (width, height, width, height)
    if not (x1 > x0 and y1 > y0):
        raise UserError(
            f"The box {[float(v) for v in box_xyxy01]} is empty.",
            "A crop needs a left edge before its right edge and a top above its bottom.",
            "Give the box as x0, y0, x1, y1 in shares of the image's width and height.",
        )
    side = max(1.0, max(x1 - x0, y1 - y0) * (1 + 2 * margin))
    corner = np.array([x0 + x1 - side, y0 + y1 - side]) / 2
    shrink = max(1, int(np.ceil(side / size)))  # several samples per pixel, averaged: no aliasing
    scale = side / (size * shrink)
    shift = corner + scale / 2 - 0.5  # pixel centres, as cv2 counts them
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]])
    fine = cv2.warpAffine(
        image_HWC,
        matrix,
        (size * shrink, size * shrink),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return cv2.resize(fine, (size, size), interpolation=cv2.INTER_AREA) if shrink > 1 else fine


class IdentityEncoder:
    """Unit embeddings of pictures of things."""

    def __init__(self, *, model: PreTrainedModel, processor: BaseImageProcessor) -> None:
        self.model, self.processor = model.eval().requires_grad_(False), processor

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> IdentityEncoder:
        """Load a folder or a hub repository."""
        model = AutoModel.from_pretrained(path, revision=revision, dtype=dtype)
        processor = AutoImageProcessor.from_pretrained(path, revision=revision)
        return cls(model=model.to(device), processor=processor)

    @torch.no_grad()
    def embed_images(self, images: Sequence[np.ndarray], batch: int = 64) -> Tensor:
        """[N, D] unit embeddings of uint8 [H, W, 3] images, each showing one thing, any size."""
        if not images:
            return torch.zeros(0, self.model.config.hidden_size)
        weight = next(self.model.parameters())
        found = []
        for start in range(0, len(images), batch):
            part = [np.ascontiguousarray(image) for image in images[start : start + batch]]
            pixels = self.processor(images=part, return_tensors="pt")["pixel_values"]
            found.append(self.embed_pixels(pixels.to(weight)))
        return torch.cat(found)

    def embed_pixels(self, pixels_N3HW: Tensor) -> Tensor:
        """[N, D] unit embeddings of resized and normalised pixels; differentiable."""
        return normalize(self.model(pixel_values=pixels_N3HW).pooler_output, dim=-1)

    def embed_crops(
        self, images: Sequence[np.ndarray], boxes_xyxy01: Sequence[Sequence[float]]
    ) -> Tensor:
        """[N, D] unit embeddings of the nth box in the nth image, cropped square with a margin."""
        size = self.model.config.image_size
        crops = [
            crop_square(image, box, size) for image, box in zip(images, boxes_xyxy01, strict=True)
        ]
        return self.embed_images(crops)
