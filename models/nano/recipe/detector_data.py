"""What the detector is shown: scenes with boxes, and queries at three levels of detail."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.checkpoints.detector import QUERIES, Target, targets

SIZE = 64
OBJECTS = 8  # four things, or four people with a face each
LEVELS = 3  # queries per object: category, colour, all details
TEXT_BYTES = 160
COUNTS = (0.2, 0.3, 0.25, 0.25)  # shares of scenes with one to four things
PEOPLE = 0.3  # share of scenes with nothing but people


def draw(index: int) -> dict[str, np.ndarray]:
    """Draw sample `index`: image uint8 [64, 64, 3], boxes_xyxy01 [8, 4] and queries [8, 3].

    Unused rows have empty queries. Objects too hidden to be asked for have queries but a box of
    zeros: nothing is to be learned from them.
    """
    rng = world.rng_for("detector-train", index)
    people = True if rng.random() < PEOPLE else None
    count = int(rng.choice(4, p=COUNTS)) + 1
    scene = world.sample_scene(rng, count=count, people=people)
    rendering = world.render(scene, size=SIZE)
    boxes = np.zeros((OBJECTS, 4), np.float32)
    queries = np.zeros((OBJECTS, LEVELS), f"S{TEXT_BYTES}")
    for row, target in enumerate(targets(scene, rendering)):
        boxes[row] = target.box_xyxy01 if target.visible else 0
        queries[row] = [text.encode() for text in _texts(target, scene)]
    return {"image": rendering.image, "boxes": boxes, "queries": queries}


def _texts(target: Target, scene: world.Scene) -> tuple[str, str, str]:
    if target.query == "a face":
        return ("a face",) * 3
    colours = scene.style != "line art"
    colour = world.describe(target.thing, detail="colour", colours=colours)
    return target.query, colour, world.describe(target.thing, colours=colours)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images [N, 64, 64, 3], boxes_xyxy01 [N, 8, 4], kinds of rows, and truth for the queries.

    Attributes:
        learned: [N, 8], an object to be found.
        ignored: [N, 8], a hidden object: neither found nor missed.
        queries: numbers [Q] of the batch's queries in the table of texts.
        truth: [N, 8, Q], the query names the object.
    """

    images: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    learned: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    queries: NDArray[np.int64]
    truth: NDArray[np.bool_]


class Corpus:
    """The drawn scenes with their queries as numbers into one table of texts."""

    def __init__(self, data: dict[str, np.memmap], limit: int) -> None:
        self.images, self.boxes, self.limit = data["image"], data["boxes"], limit
        every = np.concatenate([np.array([q.encode() for q in QUERIES]), data["queries"].ravel()])
        table, numbers = np.unique(every, return_inverse=True)
        self.texts: Sequence[str] = [text.decode() for text in table]
        self.categories = numbers[: len(QUERIES)]
        self.numbers = numbers[len(QUERIES) :].reshape(data["queries"].shape)
        self.blank = int(np.flatnonzero(table == b"")[0]) if (table == b"").any() else -1

    def batch(self, step: int, size: int) -> Batch:
        """The batch of a step: every category is asked for, and some of its details."""
        rng = world.rng_for("detector-batch", step)
        rows = np.sort(rng.choice(len(self.images), size, replace=False))
        images, boxes, numbers = self.images[rows], self.boxes[rows].copy(), self.numbers[rows]
        flipped = rng.random(size) < 0.5
        images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
        left, right = boxes[flipped, :, 0], boxes[flipped, :, 2]
        boxes[flipped, :, 0], boxes[flipped, :, 2] = 1 - right, 1 - left
        details = np.setdiff1d(numbers[:, :, 1:], [*self.categories, self.blank])
        details = rng.permutation(details)[: self.limit]
        queries = np.concatenate([self.categories, details])
        used = numbers[:, :, 0] != self.blank
        seen = used & (self.boxes[rows][:, :, 2] > 0)
        return Batch(
            images=images,
            boxes=boxes,
            learned=seen,
            ignored=used & ~seen,
            queries=queries,
            truth=(numbers[:, :, :, None] == queries).any(axis=2),
        )
