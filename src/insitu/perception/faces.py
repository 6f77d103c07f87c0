"""Faces: five landmarks in a box, an aligned crop, an identity embedding.

A checkpoint folder holds two plain image-classification models whose logits are used as
regressed numbers:

- `landmarks/`: a square crop around a face box -> 10 numbers, five (x, y) in the crop's 0..1;
  its config carries `box_margin`, the share of the box's side added on each side.
- `embedder/`: a crop aligned by five landmarks -> the identity embedding; its config carries
  `template_xy01`, where the five landmarks lie in that crop (ArcFace, Deng et al. 2019, sec. 4.1).

Everything after the landmarks is differentiable with respect to the image, so that a loss on the
embedding can train a generator. Finding faces is the zero-shot detector's job.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, grid_sample, normalize
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from insitu.errors import UserError

MAX_SUPERSAMPLING = 8


def similarity(source_N52: Tensor, target_N52: Tensor) -> tuple[Tensor, Tensor]:
    """The least-squares similarity (turn, scale, shift; no mirror) that takes source to target.

    With points as complex numbers it is z -> a z + b, and a has a closed form (Umeyama 1991 in two
    dimensions): a = sum(conj(s) t) / sum |s|^2 over centred points.

    Returns a as [N, 2] (real, imaginary) and b as [N, 2]; a = 0 if the source's points coincide.
    """
    source_mean, target_mean = source_N52.mean(1), target_N52.mean(1)
    s, t = source_N52 - source_mean[:, None], target_N52 - target_mean[:, None]
    real = (s * t).sum((1, 2))
    imaginary = (s[..., 0] * t[..., 1] - s[..., 1] * t[..., 0]).sum(1)
    a = torch.stack([real, imaginary], -1)
    a = a / s.square().sum((1, 2)).clamp_min(torch.finfo(s.dtype).tiny)[:, None]
    return a, target_mean - turn(source_mean[:, None], a)[:, 0]


def turn(points_NK2: Tensor, a_N2: Tensor) -> Tensor:
    """Multiply points by the complex number a: rotation and scale."""
    x, y = points_NK2.unbind(-1)
    real, imaginary = a_N2[:, None, 0], a_N2[:, None, 1]
    return torch.stack([real * x - imaginary * y, imaginary * x + real * y], -1)


def sample_similarity(images_N3HW: Tensor, a_N2: Tensor, b_N2: Tensor, size: int) -> Tensor:
    """Crops [N, 3, size, size] whose unit square lands at a z + b, in pixels of the image.

    Differentiable in the images and in a, b. Larger faces are sampled several times per crop pixel
    and averaged, so that shrinking does not alias; outside the image its border is repeated.
    The number of samples depends on each face alone, never on its neighbours in the batch.
    """
    pixels = (a_N2.detach().norm(dim=-1) / size).ceil().clamp(1, MAX_SUPERSAMPLING).int()
    crops = images_N3HW.new_zeros(len(images_N3HW), images_N3HW.shape[1], size, size)
    for factor in sorted(set(pixels.tolist())):
        chosen = (pixels == factor).nonzero()[:, 0]
        fine = _sample(images_N3HW[chosen], a_N2[chosen], b_N2[chosen], size * factor)
        crops = crops.index_copy(0, chosen, avg_pool2d(fine, factor))
    return crops


def _sample(images_N3HW: Tensor, a_N2: Tensor, b_N2: Tensor, size: int) -> Tensor:
    height, width = images_N3HW.shape[-2:]
    steps = (torch.arange(size, device=a_N2.device, dtype=a_N2.dtype) + 0.5) / size
    unit = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).reshape(1, -1, 2)
    pixels = turn(unit.expand(len(a_N2), -1, -1), a_N2) + b_N2[:, None]
    grid = 2 * pixels / pixels.new_tensor([width, height]) - 1
    grid = grid.reshape(len(a_N2), size, size, 2)
    return grid_sample(images_N3HW, grid, padding_mode="border", align_corners=False)


def align(
    images_N3HW: Tensor, landmarks_xy01_N52: Tensor, template_xy01_52: Tensor, size: int
) -> Tensor:
    """Crops [N, 3, size, size] in which the five landmarks lie near the template's places."""
    height, width = images_N3HW.shape[-2:]
    landmarks = landmarks_xy01_N52 * landmarks_xy01_N52.new_tensor([width, height])
    # Fitted from the template to the image, the direction grid_sample needs: no inverse to blow up.
    a, b = similarity(template_xy01_52.expand(len(landmarks), -1, -1), landmarks)
    return sample_similarity(images_N3HW, a, b, size)


def square(
    boxes_xyxy01_N4: Tensor, margin: float, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The square around each box in pixels: side [N] (longer side and margins), corner [N, 2]."""
    boxes = boxes_xyxy01_N4 * boxes_xyxy01_N4.new_tensor([width, height, width, height])
    side = (boxes[:, 2:] - boxes[:, :2]).amax(-1) * (1 + 2 * margin)
    return side, (boxes[:, :2] + boxes[:, 2:] - side[:, None]) / 2


def crop_boxes(images_N3HW: Tensor, boxes_xyxy01_N4: Tensor, margin: float, size: int) -> Tensor:
    """Upright square crops [N, 3, size, size] around boxes, `margin` of the longer side added."""
    side, corner = square(boxes_xyxy01_N4, margin, *images_N3HW.shape[-2:])
    a = torch.stack([side, torch.zeros_like(side)], -1)
    return sample_similarity(images_N3HW, a, corner, size)


def to_tensor(image_HWC: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in 0..1."""
    if image_HWC.dtype != np.uint8 or image_HWC.ndim != 3 or image_HWC.shape[2] != 3:
        raise UserError(
            f"The image is {image_HWC.dtype} with shape {image_HWC.shape}.",
            "Faces are read from uint8 RGB images of shape [height, width, 3].",
            "Convert it to RGB with values 0..255.",
        )
    return torch.from_numpy(np.array(image_HWC)).permute(2, 0, 1)[None].float() / 255


class FaceAnalyser(nn.Module):
    """Landmarks and identity embeddings of faces whose boxes are known."""

    template_52: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        embedder: PreTrainedModel,
        landmarker: PreTrainedModel,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        # Any: nn.Module's own annotations hide a transformers model's config.
        self.embedder: Any = embedder.eval()
        self.landmarker: Any = landmarker.eval()
        self.size: int = embedder.config.image_size
        self.margin: float = landmarker.config.box_margin
        template = torch.tensor(embedder.config.template_xy01)
        self.register_buffer("template_52", template, persistent=False)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> FaceAnalyser:
        """Load `embedder/` and `landmarks/` of a folder or of a hub repository.

        Raises UserError when one of the configs lacks what alignment needs.
        """
        parts = {}
        for name, needed in (("embedder", "template_xy01"), ("landmarks", "box_margin")):
            parts[name] = AutoModelForImageClassification.from_pretrained(
                path, subfolder=name, revision=revision, dtype=dtype
            )
            if not hasattr(parts[name].config, needed):
                raise UserError(
                    f"{path}/{name} has no {needed!r} in its config.json.",
                    "Without it faces cannot be cropped the way the network saw them in training.",
                    f"Add {needed!r} to the config, or choose a checkpoint that has it.",
                )
        processor = AutoImageProcessor.from_pretrained(
            path, subfolder="embedder", revision=revision
        )
        analyser = cls(
            embedder=parts["embedder"],
            landmarker=parts["landmarks"],
            mean=processor.image_mean,
            std=processor.image_std,
        )
        return analyser.to(device=device, dtype=dtype).requires_grad_(False)

    def normalise(self, crops_N3HW: Tensor) -> Tensor:
        """0..1 -> what both networks were trained on."""
        return (crops_N3HW - self.mean) / self.std

    def landmarks_tensor(self, images_N3HW: Tensor, boxes_xyxy01_N4: Tensor) -> Tensor:
        """Five points [N, 5, 2] in xy01 of the image, for one box in each image (values 0..1)."""
        height, width = images_N3HW.shape[-2:]
        size = self.landmarker.config.image_size
        crops = crop_boxes(images_N3HW, boxes_xyxy01_N4, self.margin, size)
        inside = self.landmarker(self.normalise(crops)).logits.unflatten(-1, (5, 2))
        side, corner = square(boxes_xyxy01_N4, self.margin, height, width)
        pixels = inside * side[:, None, None] + corner[:, None]
        return pixels / pixels.new_tensor([width, height])

    def align(self, images_N3HW: Tensor, landmarks_xy01_N52: Tensor) -> Tensor:
        """Aligned crops [N, 3, S, S] as the embedder wants them; differentiable."""
        return align(images_N3HW, landmarks_xy01_N52, self.template_52, self.size)

    def embed_tensor(self, crops_N3HW: Tensor) -> Tensor:
        """Unit embeddings [N, D] of aligned crops in 0..1; differentiable."""
        return normalize(self.embedder(self.normalise(crops_N3HW)).logits, dim=-1)

    @torch.no_grad()
    def landmarks(
        self, images: Sequence[np.ndarray], face_boxes_xyxy01: Tensor | np.ndarray
    ) -> Tensor:
        """Five landmarks [N, 5, 2] (xy01) for the nth box in the nth uint8 image.

        Order: left eye, right eye, nose, left and right mouth corner, as seen in the image.
        """
        boxes = self._numbers(face_boxes_xyxy01, (len(images), 4), "face boxes")
        found = [
            self.landmarks_tensor(self._put(image), box[None])
            for image, box in zip(images, boxes, strict=True)
        ]
        return torch.cat(found) if found else boxes.new_zeros(0, 5, 2)

    @torch.no_grad()
    def embed(self, images: Sequence[np.ndarray], landmarks_xy01: Tensor | np.ndarray) -> Tensor:
        """Unit embeddings [N, D] of the face at the nth landmarks in the nth uint8 image."""
        points = self._numbers(landmarks_xy01, (len(images), 5, 2), "landmarks")
        if not len(images):
            return points.new_zeros(0, self.embedder.config.num_labels)
        crops = [
            self.align(self._put(image), five[None])
            for image, five in zip(images, points, strict=True)
        ]
        return self.embed_tensor(torch.cat(crops))

    def _put(self, image_HWC: np.ndarray) -> Tensor:
        return to_tensor(image_HWC).to(self.mean)

    def _numbers(self, given: Tensor | np.ndarray, shape: tuple[int, ...], name: str) -> Tensor:
        numbers = torch.as_tensor(given).to(self.mean)
        if numbers.numel() == 0 and math.prod(shape) == 0:
            return numbers.reshape(shape)
        if tuple(numbers.shape) != shape:
            raise UserError(
                f"The {name} have shape {tuple(numbers.shape)}.",
                f"With {shape[0]} images they must have shape {shape}: one face in each.",
                "Repeat an image for each of its faces.",
            )
        return numbers
