"""A benchmark's items: what is asked for, and what its picture is judged by."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.evaluation.metrics import Case, Entity, Image, Photo
from insitu.evaluation.trained import entities
from insitu.requests import Placement, Request


@dataclass(frozen=True, kw_only=True)
class Item:
    """One request and what its picture is judged by.

    Attributes:
        text: what the picture is to show; empty = the prompt.
        group: which kind of request it is, such as "2 people".
    """

    request: Request
    entities: tuple[Entity, ...]
    text: str = ""
    group: str = ""

    @classmethod
    def of(cls, request: Request, group: str = "") -> "Item":
        """Judged by what the request itself holds; faces also by those of its photo."""
        found = tuple(
            entity if placement.landmarks_xy01 is None else _true(entity, placement, request.image)
            for entity, placement in zip(entities(request), request.placements, strict=True)
        )
        return cls(request=request, entities=found, group=group)

    def case(self, picture: Image) -> Case:
        keeps = self.request.background == "keep"
        return Case(
            image=picture, entities=self.entities, text=self.text or self.request.prompt,
            source=self.request.image if keeps else None,
        )  # fmt: skip


def _true(entity: Entity, placement: Placement, photo: Image) -> Entity:
    points = np.array(placement.landmarks_xy01)
    x0, y0, x1, y1 = (float(v) for v in (*points.min(0), *points.max(0)))
    truth = Photo(image=photo, box_xyxy01=(x0, y0, x1, y1))
    return Entity(**{**vars(entity), "truth": truth})


def digest(items: Sequence[Item]) -> str:
    """SHA-256 over all that is asked and judged by, 64 hex digits."""
    total = hashlib.sha256()
    for item in items:
        total.update(json.dumps(_plain(item), sort_keys=True).encode())
    return total.hexdigest()


def _plain(value: Any) -> Any:
    """Plain values; a picture is its own digest."""
    if isinstance(value, np.ndarray):
        return [list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return _plain(vars(value)) if hasattr(value, "__dict__") else value


def scores_of(
    items: Sequence[Item],
    paint: Callable[[Sequence[Request]], list[Image]],
    metrics: Sequence[Any],
    *,
    seeds: Sequence[int],
    clock: Callable[[], float],
    at_once: int = 8,
) -> tuple[dict[str, NDArray[np.float64]], list[Image]]:
    """Scores [K] by metric, a failure worth the worst, `seconds` of painting each; the pictures.

    Args:
        seeds: of the items' pictures.
    """
    asked = [
        replace(item.request, seed=seed) for item, seed in zip(items, seeds, strict=True)
    ]  # fmt: skip
    pictures: list[Image] = []
    seconds: list[float] = []
    for start in range(0, len(asked), at_once):
        some = asked[start : start + at_once]
        began = clock()
        pictures += paint(some)
        seconds += [(clock() - began) / len(some)] * len(some)
    cases = [item.case(picture) for item, picture in zip(items, pictures, strict=True)]
    found = {metric.scale.name: metric(cases).values for metric in metrics}
    return found | {"seconds": np.array(seconds)}, pictures
