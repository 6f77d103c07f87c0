"""From requests to canvases at the model's size, and back to photos."""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from insitu.backbones.flux import FluxBackbone
from insitu.backbones.zoom import blended, box_mask, resized
from insitu.errors import UserError
from insitu.methods import Image, Request

BATCH = 8
"""Pictures painted at once."""


def placeholder(number: int) -> str:
    """What stands for identity `number`, from 1, in a prompt."""
    return f"[V{number}]"


def canvas(backbone: FluxBackbone, request: Request) -> tuple[Image, Image]:
    """The photo at a size that the base knows, and the boxes in it: uint8 [h, w, 3], [h, w].

    Raises:
        UserError: the prompt does not name each identity by its placeholder, or a box is smaller
            than a token.
    """
    _require_placeholders(request)
    height, width = backbone.fitting(*request.image.shape[:2])
    image = resized(request.image, height, width)
    mask = np.zeros((height, width), np.uint8)
    for number, placement in enumerate(request.placements, start=1):
        x0, y0, x1, y1 = placement.box_xyxy01
        wide, high = (x1 - x0) * width, (y1 - y0) * height
        if min(wide, high) < backbone.stride:
            raise UserError(
                f"The box of placement {number}, {tuple(placement.box_xyxy01)}, is"
                f" {wide:.0f} x {high:.0f} pixels at the model's size of {width} x {height}.",
                f"A token is {backbone.stride} pixels wide; nothing can be painted in less.",
                "Give a larger box, or cut the photo closer around it.",
            )
        mask |= box_mask(placement.box_xyxy01, image)
    return image, mask


def batches(backbone: FluxBackbone, requests: Sequence[Request]) -> list[list[int]]:
    """Numbers of requests of one size with equally many placements, `BATCH` at most."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for number, request in enumerate(requests):
        size = backbone.fitting(*request.image.shape[:2])
        alike[(*size, len(request.placements))].append(number)
    return [
        numbers[start : start + BATCH]
        for numbers in alike.values()
        for start in range(0, len(numbers), BATCH)
    ]


def finished(request: Request, picture: Image, *, paste: bool) -> Image:
    """What was painted, at the photo's size; with `paste` only the boxes of it."""
    height, width = request.image.shape[:2]
    whole = resized(picture, height, width)
    if not paste:
        return whole
    mask = np.zeros((height, width), np.uint8)
    for placement in request.placements:
        mask |= box_mask(placement.box_xyxy01, request.image)
    return blended(request.image, whole, mask, feather=max(1, round(min(height, width) / 48)))


def one_at_a_time(
    paint: Callable[[Sequence[Request]], list[Image]], requests: Sequence[Request]
) -> list[Image]:
    """The baseline of several passes: each identity into what the one before it left."""
    images = [request.image for request in requests]
    for k in range(max(len(request.placements) for request in requests)):
        going = [n for n, request in enumerate(requests) if k < len(request.placements)]
        alone = [
            replace(
                requests[n],
                image=images[n],
                placements=(requests[n].placements[k],),
                prompt=_alone(requests[n].prompt, k + 1),
            )
            for n in going
        ]
        for n, image in zip(going, paint(alone), strict=True):
            images[n] = image
    return images


def _alone(prompt: str, number: int) -> str:
    """The prompt with one placeholder, now the first, and without the others."""
    words = re.sub(r"\[V(\d+)\] ?", lambda m: "[V] " if int(m[1]) == number else "", prompt)
    return words.replace("[V] ", f"{placeholder(1)} ").strip()


def _require_placeholders(request: Request) -> None:
    wanted = [placeholder(k + 1) for k in range(len(request.placements))]
    lacking = [word for word in wanted if word not in request.prompt]
    if lacking:
        raise UserError(
            f"The prompt {request.prompt!r} was given for {len(wanted)} placements.",
            f"It does not hold {', '.join(lacking)}, so it does not say what they are in the"
            " picture.",
            f"Name each by its placeholder: '{' and '.join(wanted)} on a wooden table'.",
        )
