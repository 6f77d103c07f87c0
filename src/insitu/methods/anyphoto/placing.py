"""From a placement to what the model is told of it, and all that is refused on the way."""

import itertools
import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from insitu.backbones.flux import FluxBackbone, pack
from insitu.errors import UserError
from insitu.methods import Image, Placement, Request
from insitu.methods.anyphoto.canvas import (
    Canvas,
    Patch,
    Points,
    fit,
    most_tokens,
    overlap,
    paste,
    scale,
    tokens_under,
)
from insitu.methods.anyphoto.faces import (
    around_box,
    crop,
    in_pixels,
    require_face,
    require_landmarks,
)
from insitu.perception.faces import FaceAnalyser

AT_ONCE = 16
"""Pictures encoded together."""
BATCH = 8
"""Requests painted together."""
Location = Literal["pruned", "canvas", "roi"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How faces are placed; see the method's `Settings`.

    Attributes:
        location: pruned canvases, whole canvases, or the face alone with a region mask.
        patch: side of an aligned crop in pixels.
        scale: least and greatest side of a pasted patch, in sides of the picture.
        box: side of an aligned crop in longer sides of a box without landmarks.
        stride: pixels of a token's side.
    """

    location: Location
    patch: int
    scale: tuple[float, float]
    box: float
    stride: int

    def sides(self, height: int, width: int) -> tuple[float, float]:
        """The clamp in pixels."""
        side = math.sqrt(height * width)
        return self.scale[0] * side, self.scale[1] * side

    def tokens(self, height: int, width: int) -> int:
        """The most tokens of a face."""
        if self.location == "roi":
            return (self.patch // self.stride) ** 2
        if self.location == "canvas":
            return height * width // self.stride**2
        return most_tokens(self.sides(height, width)[1], height, width, self.stride)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is encoded of one face.

    Attributes:
        picture: uint8 [h, w, 3], the canvas or the face alone.
        places: numbers of the tokens kept.
        region: bool [N], the picture's tokens where the face goes.
    """

    picture: Image
    places: NDArray[np.int64]
    region: NDArray[np.bool_]


def target(
    faces: FaceAnalyser, placement: Placement, rules: Rules, height: int, width: int, what: str
) -> Points:
    """Where a face's landmarks go, in pixels; without landmarks, those of an upright face in its
    box. Raises UserError where they are no face of this picture.
    """
    if placement.landmarks_xy01 is None:
        box = np.array(placement.box_xyxy01) * (width, height, width, height)
        if not ((box[2:] > box[:2]).all() and (box[:2] >= 0).all()):
            raise UserError(
                f"The box {tuple(placement.box_xyxy01)} was given for {what}.",
                "A box is x0, y0, x1, y1 in shares of the picture's width and height.",
                "Divide pixels by width and height, and give the left and top edge first.",
            )
        return around_box(faces, box, rules.box)
    points = require_landmarks(placement.landmarks_xy01, what)
    if not np.ptp(points, axis=0).any():
        raise UserError(
            f"The landmarks of {what} all lie at {points[0, 0]:.3f}, {points[0, 1]:.3f}.",
            "They do not tell how large the face is to be.",
            "Give five different points, or leave the landmarks out for the box to count.",
        )
    return in_pixels(points, height, width)


def reference(faces: FaceAnalyser, placement: Placement, rules: Rules, what: str) -> Patch:
    """The reference's aligned crop. Raises UserError where its landmarks show no face."""
    assert placement.reference is not None  # `accepts` asks for one
    whose = f"the reference of {what}"
    points = require_landmarks(placement.reference_landmarks_xy01, whose)
    height, width = placement.reference.shape[:2]
    require_face(points, height, width, whose)
    return crop(faces, placement.reference, points, rules.patch)


def look(
    patch: Patch, target_52: Points, rules: Rules, height: int, width: int, what: str
) -> tuple[Seen, Canvas]:
    """What is encoded of a patch at its place.

    Raises:
        UserError: it would lie outside of the picture.
    """
    place = fit(patch, target_52, rules.sides(height, width))
    canvas = paste(patch, place, height, width)
    if not canvas.mask.any():
        raise UserError(
            f"{what} was to go to {place.corner[0]}, {place.corner[1]}, {place.side} pixels wide.",
            f"Nothing of it lies in the picture of {width} x {height}.",
            "Give landmarks or a box within the picture, in shares of its width and height.",
        )
    under = tokens_under(canvas.mask, rules.stride)
    region = np.zeros(height * width // rules.stride**2, bool)
    region[under] = True
    if rules.location == "roi":
        return Seen(picture=patch.pixels, places=np.arange(rules.tokens(height, width)),
                    region=region), canvas  # fmt: skip
    places = under if rules.location == "pruned" else np.arange(len(region))
    return Seen(picture=canvas.pixels, places=places, region=region), canvas


def placed(
    backbone: FluxBackbone, faces: FaceAnalyser, rules: Rules, request: Request
) -> list[Seen]:
    """The faces of a request on canvases of the size that is painted.

    Raises:
        UserError: a reference shows no face, or a face is smaller than a token or outside.
    """
    height, width = backbone.fitting(*request.image.shape[:2])
    seen, canvases = [], []
    for number, placement in enumerate(request.placements, start=1):
        what = f"face {number}"
        patch = reference(faces, placement, rules, what)
        points = target(faces, placement, rules, height, width, what)
        side = scale(patch.landmarks, points) * rules.patch
        if side < rules.stride:
            raise UserError(
                f"Face {number} was to be {side:.1f} pixels wide, in a picture of {width} x"
                f" {height}.",
                f"A token is {rules.stride} pixels wide; in less no face can be painted.",
                "Give a larger box, or landmarks further apart.",
            )
        one, canvas = look(patch, points, rules, height, width, f"Face {number}")
        seen.append(one)
        canvases.append(canvas)
    _warn_of_overlaps(canvases)
    return seen


def batches(sizes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Numbers of what has equal sizes, `BATCH` at most together."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, size in enumerate(sizes):
        alike[size].append(number)
    return [
        numbers[start : start + BATCH]
        for numbers in alike.values()
        for start in range(0, len(numbers), BATCH)
    ]


def encoded(
    backbone: FluxBackbone, seen: Sequence[Seen], length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens [n, length, C], their places and whether they are any: bool [n, length]."""
    tokens = []
    for start in range(0, len(seen), AT_ONCE):
        some = seen[start : start + AT_ONCE]
        packed = pack(backbone.encode(np.stack([one.picture for one in some])))
        tokens.append(packed)
    places, kept = np.zeros((len(seen), length), np.int64), np.zeros((len(seen), length), bool)
    for k, one in enumerate(seen):
        places[k, : len(one.places)] = one.places
        kept[k, : len(one.places)] = True
    where, held = (torch.from_numpy(x).to(backbone.device) for x in (places, kept))
    every = torch.cat(tokens)
    chosen = every.gather(1, where[..., None].expand(-1, -1, every.shape[-1]))
    return chosen * held[..., None], where, held


def _warn_of_overlaps(canvases: Sequence[Canvas]) -> None:
    for (i, first), (j, second) in itertools.combinations(enumerate(canvases, start=1), 2):
        shared = overlap(first, second)
        if shared > 0:
            warnings.warn(
                f"Faces {i} and {j} overlap: {shared:.0%} of the smaller one is covered by both."
                " Where much is, identities mix or change places; move them apart.",
                stacklevel=2,
            )
