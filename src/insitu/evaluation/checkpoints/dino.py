"""Does the identity encoder find the same thing again? Retrieval among things it never saw.

Every gallery holds one portrait of each of `GALLERY` identities; the queries are crops of the same
identities out of scenes. The score is the share of queries whose nearest portrait is their own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from insitu import world
from insitu.evaluation.checkpoints import Figure, proportion
from insitu.perception.dino import IdentityEncoder, crop_square

GALLERY = 100
SIZE = 64
CLEARLY_VISIBLE = 0.6
"""Share of its own silhouette that a thing must show to count as a view of it."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """One gallery and its queries, all uint8 [64, 64, 3]; the nth query shows the nth identity."""

    references: list[np.ndarray]
    queries: list[np.ndarray]


def reference(thing: world.Thing, rng: np.random.Generator) -> np.ndarray:
    """A crop of a portrait: what a user gives."""
    drawn = world.portrait(thing, rng, size=2 * SIZE)
    return crop_square(drawn.image, drawn.things[0].box_xyxy01, SIZE)


def scene_crop(
    thing: world.Thing, rng: np.random.Generator, *, size: int, style: str | None = "photo"
) -> np.ndarray:
    """A crop of the thing out of a scene of `size` px, with others around it, mostly visible."""
    if isinstance(thing, world.Person):
        thing = replace(thing, expression=world.sample_expression(rng))
    for _ in range(20):
        others = [world.sample_subject(rng) for _ in range(int(rng.integers(0, 3)))]
        scene = world.sample_scene(rng, things=[thing, *others], style=style)
        drawn = world.render(scene, size=size)
        seen = next(one for one in drawn.things if one.thing == thing)
        if seen.visible >= CLEARLY_VISIBLE:
            return crop_square(drawn.image, seen.box_xyxy01, SIZE)
    raise RuntimeError("No scene showed the thing clearly in 20 attempts.")


def twin(subject: world.Subject, rng: np.random.Generator) -> world.Subject:
    """Another identity that every caption describes in the same words.

    Shape, marks, shades and the pattern's phase, scale and angle are its own.
    """
    other = world.sample_subject(rng, category=subject.category)
    return replace(
        subject,
        base=replace(other.base, name=subject.base.name),
        second=replace(other.second, name=subject.second.name),
        pattern=replace(other.pattern, kind=subject.pattern.kind),
        shape=other.shape,
        marks=other.marks,
    )


def retrieval(
    seed: int, number: int, *, size: int, style: str = "photo", same_category: bool = False
) -> Retrieval:
    """Held-out gallery `number`: identities, portraits and scenes that no recipe draws."""
    rng = world.rng_for("held-out", "dino", seed, number)
    category = world.CATEGORIES[int(rng.integers(len(world.CATEGORIES)))]
    things = [
        world.sample_subject(rng, category=category if same_category else None)
        for _ in range(GALLERY)
    ]
    return Retrieval(
        references=[reference(thing, rng) for thing in things],
        queries=[scene_crop(thing, rng, size=size, style=style) for thing in things],
    )


def ranking(encoder: IdentityEncoder, drawn: Retrieval) -> Tensor:
    """Cosine of every query with every reference, [queries, references]."""
    return encoder.embed_images(drawn.queries) @ encoder.embed_images(drawn.references).T


def figures(path: str | Path, *, count: int = 500, seed: int = 0) -> dict[str, Figure]:
    """Retrieval and twin figures of any DINOv2-like checkpoint, each over about `count` queries.

    - `top1_128`, `top1_64`: nearest of 100 portraits, queries out of 128 and 64 px scenes;
    - `top1_128_pastel`, `_night`, `_line_art`: queries out of scenes that are not photos; line art
      takes the colours away;
    - `top1_128_same_category`: all 100 identities are of one category;
    - `twins`: the own portrait is nearer than that of a twin in the same words (chance 0.5).
    """
    encoder = IdentityEncoder.from_pretrained(str(path))
    galleries = range(max(1, round(count / GALLERY)))

    def top1(**how: object) -> Figure:
        drawn = [retrieval(seed, n, **how) for n in galleries]  # type: ignore[arg-type]
        return proportion([hit for one in drawn for hit in hits(encoder, one)])

    return {
        "top1_128": top1(size=128),
        "top1_64": top1(size=64),
        "top1_128_pastel": top1(size=128, style="pastel"),
        "top1_128_night": top1(size=128, style="night"),
        "top1_128_line_art": top1(size=128, style="line art"),
        "top1_128_same_category": top1(size=128, same_category=True),
        "twins": proportion(_twin_hits(encoder, seed, count)),
    }


def hits(encoder: IdentityEncoder, drawn: Retrieval) -> list[bool]:
    cosines = ranking(encoder, drawn)
    return (cosines.argmax(1) == torch.arange(len(cosines))).tolist()


def _twin_hits(encoder: IdentityEncoder, seed: int, count: int) -> list[bool]:
    own, others, queries = [], [], []
    for n in range(count):
        rng = world.rng_for("held-out", "dino-twins", seed, n)
        subject = world.sample_subject(rng)
        own.append(reference(subject, rng))
        others.append(reference(twin(subject, rng), rng))
        queries.append(scene_crop(subject, rng, size=128))
    near, far, query = (encoder.embed_images(part) for part in (own, others, queries))
    return ((near * query).sum(-1) > (far * query).sum(-1)).tolist()
