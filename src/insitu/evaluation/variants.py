"""Settings that a method paints with, compared on the same adapters, requests and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageDraw, ImageOps

from insitu.edits import Words, article
from insitu.evaluation.comparison import Comparison, compare
from insitu.evaluation.metrics import Case, Entity, Image, Metric
from insitu.randomness import rng_for
from insitu.requests import Box, Request

GAP, HEAD = 8, 24  # pixels of the overview
Variant = Mapping[str, Any]
"""Settings that differ from the adapter's own; none = as it was trained."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request and what its picture is judged by."""

    request: Request
    entity: Entity


@dataclass(frozen=True, kw_only=True)
class Group:
    """Requests of one adapter: a subject's, or one of a method that serves all.

    `paint` paints requests with settings that differ.
    """

    asked: Sequence[Asked]
    paint: Callable[[Variant, Sequence[Request]], list[Image]]


@dataclass(frozen=True, kw_only=True)
class Result:
    """By variant, in their order: scores [S, K, R] by metric, and first pictures [S][K]."""

    variants: Sequence[Variant]
    values: Sequence[Mapping[str, NDArray[np.float64]]]
    pictures: Sequence[Sequence[Sequence[Image]]]
    groups: Sequence[Group]

    def comparisons(self, number: int, *, seed: int) -> dict[str, Comparison]:
        """A variant against the first one, by metric."""
        first = self.values[0]
        return {
            name: compare(own, first[name], seed=seed) for name, own in self.values[number].items()
        }


def run(
    groups: Sequence[Group],
    variants: Sequence[Variant],
    metrics: Sequence[Metric],
    *,
    seeds: int,
    seed: int,
) -> Result:
    """Paint and measure each group's requests with each variant, every one with the same seeds."""
    values, pictures = [], []
    for variant in variants:
        own: dict[str, list[NDArray[np.float64]]] = {m.scale.name: [] for m in metrics}
        shown = []
        for number, group in enumerate(groups):
            requests = [
                replace(one.request, seed=_seed(seed, number, k, r))
                for k, one in enumerate(group.asked)
                for r in range(seeds)
            ]
            painted = group.paint(variant, requests)
            cases = [
                Case(
                    image=picture, entities=(group.asked[n // seeds].entity,),
                    source=request.image, text=request.prompt,
                )
                for n, (picture, request) in enumerate(zip(painted, requests, strict=True))
            ]  # fmt: skip
            for metric in metrics:
                scores = metric(cases).values.reshape(len(group.asked), seeds)
                own[metric.scale.name].append(scores)
            shown.append(painted[::seeds])
        values.append({name: np.stack(scores) for name, scores in own.items()})
        pictures.append(shown)
    return Result(variants=variants, values=values, pictures=pictures, groups=groups)


def _seed(*numbers: int) -> int:
    return int(rng_for("variant", *numbers).integers(2**31))


def label(variant: Variant) -> str:
    """A variant in words: its settings, or that there are none."""
    return ", ".join(f"{key} {value}" for key, value in variant.items()) or "as trained"


def rows(done: Result, asked: str) -> list[dict[str, object]]:
    """Every score, as a row for a table: what was asked, variant, group, request, seed, metrics."""
    return [
        {"asked": asked, "variant": label(variant), "group": s, "request": k, "seed": r}
        | {name: round(float(scores[s, k, r]), 6) for name, scores in values.items()}
        for variant, values in zip(done.variants, done.values, strict=True)
        for s, k, r in np.ndindex(next(iter(values.values())).shape)
    ]


def recoloured(words: str, vocabulary: Words, rng: np.random.Generator) -> tuple[str, str] | None:
    """Words with another colour, pattern or material in place of the first, and which it was.

    None where they hold none.
    """
    for old in words.split():
        for known in vocabulary.values():
            if old in known:
                new = str(rng.choice([word for word in known if word != old]))
                said = [new if word == old else word for word in words.split()]
                edited = " ".join(said)
                if said[0] in ("a", "an"):
                    edited = article(" ".join(said[1:]))
                return edited, old
    return None


def smaller(box_xyxy01: Box, share: float) -> Box:
    """A box of the same proportions on the same ground, its sides shorter."""
    x0, y0, x1, y1 = box_xyxy01
    wide, high = (x1 - x0) * share, (y1 - y0) * share
    middle = (x0 + x1) / 2
    return middle - wide / 2, y1 - high, middle + wide / 2, y1


def overview(done: Result, *, rows: int = 6, side: int = 128) -> Image:
    """A row a request: its reference, the photo, then each variant; uint8 [H, W, 3] on white."""
    heads = ["reference", "photo", *map(label, done.variants)]
    some = [(s, k) for s, group in enumerate(done.groups) for k in range(len(group.asked))]
    some = some[:: max(1, len(some) // rows)][:rows]
    step = side + GAP
    canvas = Pil.new("RGB", (len(heads) * step - GAP, HEAD + len(some) * (step + HEAD)), "white")
    draw = ImageDraw.Draw(canvas)
    for column, head in enumerate(heads):
        draw.text((column * step + side // 2, HEAD // 2), head, "black", anchor="mm")
    for row, (s, k) in enumerate(some):
        asked, top = done.groups[s].asked[k], HEAD + row * (step + HEAD)
        tiles = [asked.entity.references[0].image, _framed(asked.request)]
        tiles += [own[s][k] for own in done.pictures]
        for column, tile in enumerate(tiles):
            whole = Pil.fromarray(tile)
            fitted = ImageOps.pad(whole, (side, side), Pil.Resampling.NEAREST, color="white")
            canvas.paste(fitted, (column * step, top))
        draw.text((0, top + side + HEAD // 2), asked.request.prompt, "black", anchor="lm")
    return np.asarray(canvas)


def _framed(request: Request) -> Image:
    picture = Pil.fromarray(request.image.copy())
    height, width = request.image.shape[:2]
    x0, y0, x1, y1 = request.placements[0].box_xyxy01
    frame = (x0 * (width - 1), y0 * (height - 1), x1 * (width - 1), y1 * (height - 1))
    ImageDraw.Draw(picture).rectangle(frame, outline=(51, 153, 230))
    return np.asarray(picture)
