"""One grammar for global captions, regional descriptions and edits."""

from typing import Final, Literal

import numpy as np

from insitu.errors import UserError
from insitu.world.checks import require_known
from insitu.world.faces import Person
from insitu.world.randomness import pick
from insitu.world.scenes import Scene, Thing
from insitu.world.subjects import Accessory, Edit
from insitu.world.vocabulary import BACKGROUNDS, COLOURS, STYLES

Detail = Literal["full", "pattern", "colour", "category"]
DETAILS: Final[tuple[Detail, ...]] = ("full", "pattern", "colour", "category")


def describe(thing: Thing, *, detail: Detail = "full", colours: bool = True) -> str:
    """A regional caption, e.g. "a red and white striped woolly mug wearing a blue hat".

    `colours` False leaves colour words out, for pictures that have none (line art).
    Raises UserError for an unknown detail.
    """
    require_known("detail", detail, DETAILS)
    if isinstance(thing, Person):
        return _describe_person(thing, detail, colours)
    words: list[str] = []
    if detail != "category" and colours:
        words.append(thing.colour)
        if detail == "full" and thing.pattern.kind != "plain":
            words += ["and", thing.second.name]
    if detail in ("full", "pattern") and thing.pattern.kind != "plain":
        words.append(thing.pattern.kind)
    if detail == "full" and colours:
        words.append(thing.material)
    phrase = article(" ".join([*words, thing.category]))
    if thing.accessory and detail in ("full", "pattern"):
        phrase += f" wearing {_worn(thing.accessory, colours)}"
    return phrase


def _describe_person(person: Person, detail: Detail, colours: bool) -> str:
    if detail == "category":
        return "a person"
    face, garment = person.face, person.garment
    hair = face.hair if colours and face.hair_style != "no" else ""
    style = face.hair_style if detail == "full" or face.hair_style == "no" or not colours else ""
    traits = [" ".join(word for word in (style, hair, "hair") if word)]
    if detail != "colour":
        traits += ["glasses"] * face.wears_glasses + ["a beard"] * face.has_beard
    shirt: Detail = "colour" if detail == "colour" else "pattern"
    worn = [describe(garment, detail=shirt, colours=colours)]
    if person.accessory and detail != "colour":
        worn.append(_worn(person.accessory, colours))
    return f"a person with {_listed(traits)} wearing {_listed(worn)}"


def caption(
    scene: Scene, *, detail: Detail = "full", rng: np.random.Generator | None = None
) -> str:
    """The global caption, things from left to right. With `rng`, wording and detail vary.

    Raises UserError for an unknown detail, and for a detail other than "full" with `rng`.
    """
    if rng is not None and detail != "full":
        raise UserError(
            f"A caption was asked for with detail={detail!r} and with rng.",
            "With rng the detail of each thing is drawn, so it cannot be chosen as well.",
            "Leave out one of the two.",
        )
    order = np.argsort([frame.cx for frame in scene.frames], kind="stable")
    things = [scene.things[i] for i in order]
    colours = scene.style != "line art"
    if rng is None:
        phrases = [describe(thing, detail=detail, colours=colours) for thing in things]
        text = _listed(phrases)
    else:
        text = _varied(things, colours, rng)
    if rng is None or rng.random() < 0.8:
        text += " " + place(scene, colours)
    return STYLES[scene.style].format(scene=text)


def place(scene: Scene, colours: bool = True) -> str:
    """The background's phrase, e.g. "on a purple rug"."""
    text = BACKGROUNDS[scene.background].format(colour=scene.background_colour)
    if not colours:
        text = " ".join(word for word in text.split() if word not in COLOURS)
    return text.replace("a orange", "an orange")


def _varied(things: list[Thing], colours: bool, rng: np.random.Generator) -> str:
    phrases = [describe(t, detail=_level(t, len(things), rng), colours=colours) for t in things]
    if len(things) == 2 and rng.random() < 0.3:
        left, right = phrases
        if rng.random() < 0.5:
            return f"{left} to the left of {right}"
        return f"{right} to the right of {left}"
    return _listed(phrases)


def _level(thing: Thing, count: int, rng: np.random.Generator) -> Detail:
    """How much is told of one of `count` things: a caption stays short, 48 words at most."""
    if count < 3:
        return pick(rng, DETAILS)
    short: tuple[Detail, ...] = ("colour", "category")
    return pick(rng, short if count > 3 or isinstance(thing, Person) else ("pattern", *short))


def describe_edit(edit: Edit, category: str) -> str:
    """An edit as words, e.g. "the same mug, but blue dotted, wearing a red hat"."""
    words = [word for word in (edit.colour, edit.pattern, edit.material) if word]
    text = f"the same {category}"
    if words:
        text += ", but " + " ".join(words)
    if edit.accessory:
        text += f", wearing {article(f'{edit.accessory_colour} {edit.accessory}')}"
    return text


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _worn(accessory: Accessory, colours: bool) -> str:
    return article(f"{accessory.shade.name} {accessory.kind}" if colours else accessory.kind)


def _listed(phrases: list[str]) -> str:
    if len(phrases) == 1:
        return phrases[0]
    return ", ".join(phrases[:-1]) + " and " + phrases[-1]
