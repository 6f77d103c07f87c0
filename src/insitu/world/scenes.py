"""Scenes: things at places, back to front, on a background, in a style and a light."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from insitu.errors import UserError
from insitu.world.checks import require_count, require_frame, require_known
from insitu.world.faces import Person, sample_person
from insitu.world.geometry import Frame
from insitu.world.randomness import pick
from insitu.world.subjects import Subject, sample_subject
from insitu.world.vocabulary import BACKGROUNDS, COLOURS, STYLES

Thing = Subject | Person
_STYLED: Final = 0.16
"""Share of sampled scenes that are not plain photos."""


@dataclass(frozen=True, kw_only=True)
class Light:
    """`direction` the light comes from (image axes, length = strength), gain per channel."""

    direction: tuple[float, float] = (-0.15, -0.15)
    brightness: float = 1.0
    warmth: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things and frames run back to front and have equal length (1 to 4).

    Raises UserError for other lengths and for names the world does not know.
    """

    things: tuple[Thing, ...]
    frames: tuple[Frame, ...]
    background: str = "wall"
    background_colour: str = "gray"
    style: str = "photo"
    light: Light = Light()
    seed: int = 0
    """Places clouds, trees, folds and clutter."""
    blur: float = 0.0
    """Standard deviation of a blur over the finished picture, as a share of its side."""
    clutter: int = 0
    """How many stray shapes stand in front of everything."""

    def __post_init__(self) -> None:
        require_count(len(self.things))
        if len(self.things) != len(self.frames):
            raise UserError(
                f"A scene of {len(self.things)} things and {len(self.frames)} frames was given.",
                "Each thing stands in its own frame.",
                "Give one frame for each thing, in the same order.",
            )
        for frame in self.frames:
            require_frame(frame)
        require_known("background", self.background, BACKGROUNDS)
        require_known("colour", self.background_colour, COLOURS)
        require_known("style", self.style, STYLES)


def sample_scene(
    rng: np.random.Generator,
    *,
    things: "list[Thing] | None" = None,
    count: int | None = None,
    people: bool | None = None,
    style: str | None = None,
    background: str | None = None,
) -> Scene:
    """A scene; what is not given is drawn.

    `count` in 1..4 (default: 1 in half of the scenes); `people` True = only people, False = only
    subjects, None = a quarter of the scenes have people, some beside subjects. With `things`
    neither can be given.

    Raises UserError for no or too many things, and for an unknown style or background.
    """
    if things is None:
        if count is None:
            count = int(rng.choice([1, 2, 3, 4], p=[0.5, 0.28, 0.12, 0.1]))
        require_count(count)
        things = _sample_things(rng, count, people)
    elif count is not None or people is not None:
        raise UserError(
            f"Things were given together with count={count} and people={people}.",
            "The things say already how many and what they are.",
            "Leave count and people out, or let the things be drawn.",
        )
    frames = sample_frames(rng, things)
    order = np.argsort([frame.cy + frame.size for frame in frames], kind="stable")
    return Scene(
        things=tuple(things[i] for i in order),
        frames=tuple(frames[i] for i in order),
        background=pick(rng, list(BACKGROUNDS)) if background is None else background,
        background_colour=pick(rng, list(COLOURS)),
        style=_sample_style(rng) if style is None else style,
        light=sample_light(rng),
        seed=int(rng.integers(2**31)),
    )


def _sample_style(rng: np.random.Generator) -> str:
    if rng.random() >= _STYLED:
        return "photo"
    return pick(rng, [name for name in STYLES if name != "photo"])


def sample_light(rng: np.random.Generator) -> Light:
    """A light from above on either side, a little bright or dim, warm or cold."""
    side = float(rng.choice([-1.0, 1.0]))
    return Light(
        direction=(side * float(rng.uniform(0.04, 0.26)), -float(rng.uniform(0.0, 0.2))),
        brightness=float(rng.uniform(0.88, 1.06)),
        warmth=float(rng.uniform(-0.05, 0.05)),
    )


def _sample_things(rng: np.random.Generator, count: int, people: bool | None) -> list[Thing]:
    kind = rng.random()
    mixed = people is None and 0.22 <= kind < 0.28 and count > 1
    if people is None:
        people = bool(kind < 0.22)
    things: list[Thing] = [
        sample_person(rng) if people else sample_subject(rng) for _ in range(count)
    ]
    if mixed:
        things[0] = sample_person(rng)
    return things


_SLOTS: Final[dict[int, tuple[tuple[float, float], ...]]] = {
    # Centre x and height of the base line, per thing.
    1: ((0.5, 0.92),),
    2: ((0.27, 0.9), (0.73, 0.9)),
    3: ((0.2, 0.92), (0.5, 0.7), (0.8, 0.92)),
    4: ((0.26, 0.56), (0.74, 0.56), (0.27, 0.97), (0.73, 0.97)),
}
_CROWDED: Final = 0.45
"""Share of the scenes of several things in which these hide parts of one another."""
_HALF: Final = {1: (0.27, 0.4), 2: (0.2, 0.27), 3: (0.16, 0.21), 4: (0.16, 0.2)}
_HALF_PERSON: Final = {1: (0.36, 0.46), 2: (0.25, 0.31), 3: (0.21, 0.25), 4: (0.21, 0.24)}


def sample_frames(rng: np.random.Generator, things: "list[Thing]") -> list[Frame]:
    """Where things stand: a slot each, jittered; in nearly half of the scenes they crowd together.

    Raises UserError unless there are 1 to 4 things.
    """
    require_count(len(things))
    frames = []
    slots = rng.permutation(len(things))
    crowded = rng.random() < _CROWDED
    apart = float(rng.uniform(0.35, 0.7)) if crowded else 1.0
    for thing, slot in zip(things, slots, strict=True):
        is_person = isinstance(thing, Person)
        low, high = (_HALF_PERSON if is_person else _HALF)[len(things)]
        size = float(rng.uniform(low, high))
        x, base = _SLOTS[len(things)][int(slot)]
        reach = max(0.0, 0.5 - size) * 0.9 if len(things) == 1 else 0.05
        cx = 0.5 + (x - 0.5) * apart + float(rng.uniform(-reach, reach))
        base = 1.0 if is_person and base > 0.85 else base + float(rng.uniform(-0.06, 0.03))
        cy = max(base - size, size * 0.9)
        tilt = 0.0 if is_person else float(rng.uniform(-12, 12))
        frames.append(Frame(cx, cy, size, tilt, bool(rng.random() < 0.5)))
    return frames
