"""From a description to items: what each kind of benchmark asks for."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.backbones.zoom import closer
from insitu.edits import Words, article, named
from insitu.errors import UserError
from insitu.evaluation.metrics import Entity, Image, Photo
from insitu.evaluation.placement import Place, Reference
from insitu.evaluation.sets.description import Description
from insitu.evaluation.sets.items import Item
from insitu.evaluation.sets.sources import (
    Subject,
    pictures,
    read,
    scenes,
    subjects,
    two_places,
)
from insitu.evaluation.variants import smaller
from insitu.perception.face_finder import FaceFinder
from insitu.randomness import rng_for
from insitu.requests import EVERYWHERE, Box, Placement, Request

GROWN = 1.5
"""Sides of a pair's boxes in sides of the things that stood there: as in BoundID's rows."""


def items_of(asked: Description, count: int) -> list[Item]:
    """The first items of a benchmark, each with a seed of its own; `people` by `people_of`.

    Raises:
        UserError: a folder lacks what the description asks for.
    """
    if asked.kind == "scenes":
        assert asked.scenes is not None and asked.subjects is not None  # of this kind
        known = subjects(asked.subjects, size=asked.size, seed=asked.seed)
        rooms = scenes(asked.scenes, size=asked.size, seed=asked.seed)
        return [_scene(asked, known, rooms, number) for number in range(count)]
    make = {"pairs": _pair, "layouts": _layout, "styles": _style}
    if asked.kind not in make:
        raise ValueError(f"{asked.kind} come from elsewhere")
    given = subjects(asked.subjects, size=asked.size, seed=asked.seed) if asked.subjects else []
    return [make[asked.kind](asked, given, number) for number in range(count)]


def _pair(asked: Description, given: Sequence[Subject], number: int) -> Item:
    """Two subjects, a different pair each time, into the places of two things."""
    k, step = number % len(given), 1 + (number // len(given)) % (len(given) - 1)
    both = given[k], given[(k + step) % len(given)]
    photo, boxes, place = two_places(number, size=asked.size, seed=asked.seed)
    words = [subject.class_word for subject in both]
    template = asked.prompts[number % len(asked.prompts)]
    placements = tuple(
        Placement(box_xyxy01=_grown(box), reference=_square(subject), prompt=subject.class_word)
        for box, subject in zip(boxes, both, strict=True)
    )
    return Item.of(
        Request(
            image=photo, placements=placements, seed=asked.seed + number,
            prompt=template.format("", *words, place=place),
        )
    )  # fmt: skip


def _scene(
    asked: Description, given: Sequence[Subject], rooms: Sequence[Place], number: int
) -> Item:
    """Every subject in every scene, prompts in turn."""
    room, subject = rooms[number % len(rooms)], given[(number // len(rooms)) % len(given)]
    rng = rng_for("benchmark", "colour", asked.seed, number)
    colour = str(rng.choice([name for name in world.COLOURS if name != subject.colour]))
    template = asked.prompts[number % len(asked.prompts)]
    words = template.format(subject.class_word, place=room.text, colour=colour)
    if words.startswith("a "):  # or "an"
        words = article(words[2:])
    alone = subject.alone
    box = smaller(room.box(alone.shape[1] / alone.shape[0]), asked.share)
    return Item(
        request=Request(
            image=room.image, placements=(Placement(box_xyxy01=box, reference=alone),),
            prompt=words, seed=asked.seed + number,
        ),
        entities=(
            Entity(
                box_xyxy01=box, text=words or article(subject.class_word),
                category=subject.class_word, references=(Photo(image=alone),),
            ),
        ),
        group=template,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A subject that an adapter was tuned on.

    Attributes:
        reference: its photos.
        identifier: what stands for it in prompts.
        attributes: words for how it looks, by kind; `vocabulary`: all words of each kind.
    """

    reference: Reference
    identifier: str
    attributes: Words
    vocabulary: Words


def tuned_of(asked: Description, tuned: Tuned, count: int) -> list[Item]:
    """A tuned subject in scene after scene, itself or with one of its attributes replaced."""
    assert asked.scenes is not None  # of this kind
    rooms = scenes(asked.scenes, size=asked.size, seed=asked.seed)
    return [_tuned(asked, tuned, rooms[n % len(rooms)], n) for n in range(count)]


def _tuned(asked: Description, own: Tuned, room: Place, number: int) -> Item:
    class_word = own.reference.class_word
    known = {kind: tuple(words) for kind, words in own.attributes.items() if words}
    kind = sorted(known)[number % len(known)]
    rng = rng_for("benchmark", "edit", asked.seed, own.identifier, class_word, number)
    new = str(rng.choice([word for word in own.vocabulary[kind] if word not in known[kind]]))
    template = asked.prompts[number % len(asked.prompts)]
    edits = "{edited}" in template
    prompt = template.format(
        subject=f"{own.identifier} {class_word}", place=room.text,
        edited=named(own.identifier, f"{new} {class_word}", known[kind]),
    )  # fmt: skip
    box = smaller(room.box(own.reference.proportions), asked.share)
    return Item(
        request=Request(
            image=room.image, placements=(Placement(box_xyxy01=box),), prompt=prompt,
            seed=asked.seed + number, replaced=known[kind] if edits else (),
        ),
        entities=(
            Entity(
                box_xyxy01=box, text=article(f"{new} {class_word}" if edits else class_word),
                category=class_word, references=own.reference.photos,
            ),
        ),
        group=kind if edits else "",
    )  # fmt: skip


def _layout(asked: Description, given: Sequence[Subject], number: int, style: str = "") -> Item:
    """The things of a scene of the world in words, at their places, from simple to coupled."""
    rng = rng_for("benchmark", "layout", asked.seed, number)
    count = asked.things[number % len(asked.things)]
    scene = world.sample_scene(rng, count=count, people=False, style="photo")
    truth = world.render(scene, asked.size)
    kept = scene
    if asked.keep:  # all but the last, which hides the others
        kept = replace(scene, things=scene.things[:-1], frames=scene.frames[:-1])
    shown = truth.things[-1:] if asked.keep else truth.things
    placements = []
    for thing in shown:
        mask = np.where(thing.mask, np.uint8(255), np.uint8(0)) if asked.shape == "mask" else None
        placements.append(
            Placement(
                box_xyxy01=thing.box_xyxy01, mask=mask, prompt=world.describe(thing.thing)
            )
        )  # fmt: skip
    image = world.render(kept, asked.size).image if asked.keep else np.zeros_like(truth.image)
    request = Request(
        image=image, placements=tuple(placements), prompt=world.caption(scene),
        seed=asked.seed + number, background="keep" if asked.keep else "free",
    )  # fmt: skip
    item = Item.of(request, group=f"{count} entities")
    asked_of = tuple(
        replace(entity, category=thing.thing.category, attributes={"colour": thing.thing.colour})
        for entity, thing in zip(item.entities, shown, strict=True)
        if isinstance(thing.thing, world.Subject)  # `people` is False
    )
    return replace(item, entities=asked_of)


def _style(asked: Description, given: Sequence[Subject], number: int) -> Item:
    """A layout with the picture of another scene for the style; judged by the style's words."""
    styles = [name for name in world.STYLES if name != "photo"]
    style = styles[number % len(styles)]
    rng = rng_for("benchmark", "style", asked.seed, number)
    shown = world.render(world.sample_scene(rng, style=style), asked.size).image
    item = _layout(asked, given, number)
    text = world.STYLES[style].format(scene=item.request.prompt)
    return replace(item, request=replace(item.request, style=shown), text=text, group=style)


def people_of(folder: Path, finder: FaceFinder, count: int, *, seed: int) -> list[Item]:
    """Cases of MultiID-Bench's kind: a folder for each, with `photo`, `reference-1`, ... and
    `prompt.txt`; faces go where the photo's are, from left to right.

    Raises:
        UserError: a case lacks something, or a face is not found.
    """
    found = []
    for number, case in enumerate(sorted(p for p in folder.glob("*") if p.is_dir())[:count]):
        named = {path.stem: path for path in pictures(case)}
        references = [read(named[name]) for name in sorted(named) if name.startswith("reference")]
        told = case / "prompt.txt"
        if "photo" not in named or not references or not told.exists():
            raise UserError(
                f"The case {case} was given.",
                "It lacks photo, reference-1 or prompt.txt.",
                "Put them there, or take the folder out.",
            )
        photo = read(named["photo"])
        faces = sorted(finder.find([photo])[0], key=lambda face: face.box_xyxy01[0])
        seen = [faces_of[:1] for faces_of in finder.find(references)]
        if len(faces) < len(references) or not all(seen):
            raise UserError(
                f"The case {case} was given.",
                f"{len(faces)} faces are found in its photo, and in {sum(map(bool, seen))} of"
                f" {len(references)} references.",
                "Use pictures in which faces are found, or take the folder out.",
            )
        placements = tuple(
            Placement(
                box_xyxy01=face.box_xyxy01, landmarks_xy01=_points(face.landmarks_xy01),
                reference=image, reference_landmarks_xy01=_points(own[0].landmarks_xy01),
            )
            for face, image, own in zip(faces, references, seen, strict=False)
        )  # fmt: skip
        prompt = told.read_text(encoding="utf-8").strip()
        request = Request(
            image=photo, placements=placements, prompt=prompt, seed=seed + number, background="free"
        )
        found.append(Item.of(request, group=f"{len(placements)} people"))
    return found


def _points(landmarks_52: NDArray[np.float32]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in landmarks_52)


def _grown(box: Box) -> Box:
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * (GROWN - 1) / 2, (y1 - y0) * (GROWN - 1) / 2
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(1.0, x1 + dx), min(1.0, y1 + dy)


def _square(subject: Subject) -> Image:
    photo = subject.photos[0]
    if photo.box_xyxy01 == EVERYWHERE:
        return photo.image
    return closer(photo.image, photo.box_xyxy01, context=0.2)
