"""Masks of things whose boxes are known: GrabCut without a model, SAM with one.

Both answer the same call and never with an empty mask: where a method finds nothing, the answer is
the ellipse inscribed in the box, and a warning is logged.

SAM 2 is left out: the installed transformers prepares its pictures with torchvision only, which is
no dependency here.
"""

import logging
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Protocol, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import SamModel, SamProcessor

from insitu.digest import weights_digest
from insitu.errors import UserError
from insitu.perception.detector import Box, Image

Mask = NDArray[np.bool_]

log = logging.getLogger(__name__)

_ROUNDING: Final = 1e-6
"""How far a box may reach over the picture's edge, since float32 boxes do."""


class Segmenter(Protocol):
    """Anything that turns a box into the mask of what stands in it."""

    name: str
    """Method and version, or method and weights: what a mask's lineage records."""

    def segment(self, images: Sequence[Image], boxes_xyxy01: Sequence[Box]) -> list[Mask]:
        """Return the mask [H, W] of the thing in the nth box of the nth image, never empty.

        An image with several boxes is repeated; SAM embeds equal neighbours once.

        Raises:
            UserError: unequal numbers of images and boxes, an image that is no uint8 RGB, or a box
                that is empty or reaches out of the picture.
        """
        ...


class GrabCut:
    """Colour models of inside and outside, and the cheapest border between them.

    Rother et al., "GrabCut: interactive foreground extraction using iterated graph cuts" (2004),
    as OpenCV has it. What is outside the box by more than `slack` is background for sure, what is
    in the core for sure the thing, and the rest is decided. Needs no weights, and gives the same
    mask on any machine with the same OpenCV, however many threads it has.

    The defaults were chosen on 100 scenes of the procedural world at 128 px. On 200 others, of one
    to three things, the mean IoU with the true masks is 0.87 (95% interval 0.86 to 0.88), and 0.85
    (0.84 to 0.87) where each side of the box is wrong by 5% of its extent; the inscribed ellipse
    alone has 0.65 and 0.62. Line art is the hardest: 0.67.
    """

    def __init__(
        self,
        *,
        iterations: int = 2,
        margin: float = 1.0,
        slack: float = 0.05,
        core: float = 0.3,
        side: int = 160,
        enlarge: float = 2.0,
        smallest_part: float = 0.03,
    ) -> None:
        """Set how to cut.

        Args:
            iterations: rounds of fitting colours and cutting.
            margin: surroundings that teach the background's colours, in longer sides of the box.
            slack: how far the thing may reach out of its box, as a share of the box's sides; a
                detector's boxes are often tight by a few percent.
            core: radius of the ellipse that is the thing for sure, where 1 touches the box.
            side: the box's longer side in pixels while it is cut; larger boxes are shrunk to it.
            enlarge: at most this much are smaller boxes enlarged towards `side`. Thin parts of
                small things survive then.
            smallest_part: separate parts below this share of the largest one are dropped.
        """
        self.iterations, self.margin, self.slack, self.core = iterations, margin, slack, core
        self.side, self.enlarge, self.smallest_part = side, enlarge, smallest_part
        values = (iterations, margin, slack, core, side, enlarge, smallest_part)
        self.name = f"grabcut {'/'.join(f'{v:g}' for v in values)}, opencv {cv2.__version__}"

    def segment(self, images: Sequence[Image], boxes_xyxy01: Sequence[Box]) -> list[Mask]:
        """See `Segmenter`."""
        _check(images, boxes_xyxy01)
        cut = (self.cut(image, box) for image, box in zip(images, boxes_xyxy01, strict=True))
        return [_filled(mask, box, self.name) for mask, box in zip(cut, boxes_xyxy01, strict=True)]

    def cut(self, image_HWC: Image, box_xyxy01: Box) -> Mask:
        """Return the bare answer for one box; it may be empty."""
        height, width = image_HWC.shape[:2]
        left, top, right, bottom = np.array(box_xyxy01) * (width, height, width, height)
        longer = max(right - left, bottom - top)
        reach = self.margin * longer
        x0, y0 = max(0, int(left - reach)), max(0, int(top - reach))
        x1 = min(width, int(np.ceil(right + reach)))
        y1 = min(height, int(np.ceil(bottom + reach)))
        scale = min(self.side / longer, self.enlarge)
        size = (max(2, round((x1 - x0) * scale)), max(2, round((y1 - y0) * scale)))
        mask = np.zeros((height, width), np.bool_)
        # In Lab a shadow moves one number, not three: colours of a thing stay closer together.
        region = cv2.cvtColor(_resized(image_HWC[y0:y1, x0:x1], size), cv2.COLOR_RGB2LAB)
        if (region == region[0, 0]).all():
            return mask  # one colour has no border in it, and the search for one takes seconds
        # The box in the region's own 0..1.
        inside = (np.array([left, top, right, bottom]) - (x0, y0, x0, y0)) / np.tile(
            (x1 - x0, y1 - y0), 2
        )
        labels = self._guess(inside, size)
        cv2.setRNGSeed(0)  # the colour models start from k-means with random centres
        models = np.zeros((1, 65)), np.zeros((1, 65))
        nowhere = (0, 0, 1, 1)  # the labels say where; the rectangle is not read
        mode = cv2.GC_INIT_WITH_MASK
        cv2.grabCut(region, labels, nowhere, *models, self.iterations, mode)
        thing = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
        share = _resized(self._parts(thing) * 255, (x1 - x0, y1 - y0))
        mask[y0:y1, x0:x1] = share >= 128
        return mask

    def _guess(self, box_xyxy01: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.uint8]:
        """GrabCut's first labels [h, w]: surely or probably the thing or the background."""
        across, down = _distances(box_xyxy01, size)
        square, round_ = np.maximum(across, down), np.hypot(across, down)
        labels = np.full(square.shape, cv2.GC_BGD, np.uint8)
        labels[square <= 1 + 2 * self.slack] = cv2.GC_PR_BGD
        labels[square <= 1] = cv2.GC_PR_FGD
        if (labels == cv2.GC_PR_FGD).all():
            # The box is the whole picture: its corners are the best guess at a background.
            labels[round_ > 1] = cv2.GC_PR_BGD
        labels[round_ <= self.core] = cv2.GC_FGD
        # Both colour models need a pixel, however small the box or the picture is: the nearest to
        # the centre and the farthest, of equals the first and the last.
        labels.flat[round_.size - 1 - round_[::-1, ::-1].argmax()] = cv2.GC_PR_BGD
        labels.flat[round_.argmin()] = cv2.GC_FGD
        return labels

    def _parts(self, thing: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The connected parts large enough to belong to the thing, 0 or 1."""
        _, parts, statistics, _ = cv2.connectedComponentsWithStats(thing, connectivity=4)
        areas = statistics[:, cv2.CC_STAT_AREA].copy()
        areas[0] = 0  # part 0 is all that is not the thing
        kept = areas >= max(1.0, self.smallest_part * areas.max())
        return kept[parts].astype(np.uint8)


class Sam:
    """Segment Anything, prompted with boxes.

    Kirillov et al., "Segment Anything" (2023): of the three masks it offers for an ambiguous
    prompt, the one for which it predicts the largest IoU is taken.
    """

    def __init__(self, *, model: Any, processor: Any, name: str = "sam") -> None:
        self.model, self.processor, self.name = model, processor, name

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a `SamModel` and its processor from a folder or hub id."""
        model: Any = SamModel.from_pretrained(path, revision=revision, dtype=dtype)
        processor = SamProcessor.from_pretrained(path, revision=revision)
        name = f"sam {checkpoint_name(path, revision)}"
        return cls(model=model.to(device).eval(), processor=processor, name=name)

    @torch.no_grad()
    def segment(self, images: Sequence[Image], boxes_xyxy01: Sequence[Box]) -> list[Mask]:
        """See `Segmenter`."""
        _check(images, boxes_xyxy01)
        masks: list[Mask] = []
        for start, stop in _runs(images):
            boxes = boxes_xyxy01[start:stop]
            found = self._segment_one(images[start], boxes)
            masks += [_filled(m, box, self.name) for m, box in zip(found, boxes, strict=True)]
        return masks

    def _segment_one(self, image_HWC: Image, boxes_xyxy01: Sequence[Box]) -> list[Mask]:
        height, width = image_HWC.shape[:2]
        pixels = (np.array(boxes_xyxy01) * (width, height, width, height)).tolist()
        inputs = self.processor(images=[image_HWC], input_boxes=[pixels], return_tensors="pt")
        device = self.model.device
        outputs = self.model(
            pixel_values=inputs["pixel_values"].to(device, self.model.dtype),
            # Not in the model's dtype: bfloat16 cannot tell neighbouring pixels apart.
            input_boxes=inputs["input_boxes"].to(device, torch.float32),
        )
        best = outputs.iou_scores[0].argmax(-1)
        chosen = outputs.pred_masks[0, torch.arange(len(best), device=device), best]
        sizes = {key: inputs[key] for key in ("original_sizes", "reshaped_input_sizes")}
        (masks_K1HW,) = self.processor.post_process_masks([chosen[:, None].float().cpu()], **sizes)
        return [np.asarray(mask[0], np.bool_) for mask in masks_K1HW]


def checkpoint_name(path: str | Path, revision: str | None) -> str:
    """What identifies weights in a lineage: a digest for a folder here, else `id@commit`."""
    if Path(path).is_dir():
        return weights_digest(Path(path))[:16]
    return f"{path}@{revision}" if revision else str(path)


def inscribed_ellipse(box_xyxy01: Box, height: int, width: int) -> Mask:
    """The mask [height, width] of the ellipse that touches a box's sides; at least one pixel."""
    across_down = np.hypot(*_distances(np.array(box_xyxy01), (width, height)))
    return np.asarray((across_down <= 1) | (across_down == across_down.min()))


def _filled(mask: Mask, box: Box, name: str) -> Mask:
    if mask.any():
        return mask
    log.warning("%s found nothing in the box %s: its ellipse is the mask", name, box)
    return inscribed_ellipse(box, *mask.shape)


def _distances(
    box_xyxy01: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances [h, w] from the box's centre across and down, 1 at its edges."""
    x, y = ((np.arange(count) + 0.5) / count for count in size)
    left, top, right, bottom = box_xyxy01
    across = np.abs(2 * x - left - right) / (right - left)
    down = np.abs(2 * y - top - bottom) / (bottom - top)
    wide, high = np.meshgrid(across, down)
    return wide, high


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """To (width, height): pixels are averaged when there are fewer, interpolated when more."""
    if size == image.shape[1::-1]:
        return image.copy()
    fewer = size[0] < image.shape[1]
    method = cv2.INTER_AREA if fewer else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)


def _runs(images: Sequence[Image]) -> Iterator[tuple[int, int]]:
    """Start and end of each run of equal neighbours."""
    changes = [n for n, pair in enumerate(pairwise(images), start=1) if not _same(*pair)]
    yield from pairwise([0, *changes, len(images)] if len(images) else [])


def _same(one: Image, other: Image) -> bool:
    return one is other or np.array_equal(one, other)


def _check(images: Sequence[Image], boxes_xyxy01: Sequence[Box]) -> None:
    if len(images) != len(boxes_xyxy01):
        raise UserError(
            f"{len(images)} images and {len(boxes_xyxy01)} boxes were given.",
            "The nth box is looked for in the nth image.",
            "Repeat an image for each of its boxes.",
        )
    for image, box in zip(images, boxes_xyxy01, strict=True):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(
                f"The image is {image.dtype} with shape {image.shape}.",
                "Things are cut out of uint8 RGB images of shape [height, width, 3].",
                "Convert it to RGB with values 0..255.",
            )
        left, top, right, bottom = box
        # Written so that a NaN fails too.
        within = all(-_ROUNDING <= v <= 1 + _ROUNDING for v in box)
        if not (within and max(left, 0) < min(right, 1) and max(top, 0) < min(bottom, 1)):
            raise UserError(
                f"The box {[float(v) for v in box]} was given.",
                "It is empty or reaches out of the picture, so it holds no thing to cut out.",
                "Give x0 < x1 and y0 < y1 in 0..1, as shares of the picture's width and height.",
            )
