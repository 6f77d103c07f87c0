"""Subjects: an identity is a parameter vector, part of which no caption can carry."""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from insitu.world.checks import require_known
from insitu.world.randomness import pick
from insitu.world.vocabulary import ACCESSORIES, CATEGORIES, COLOURS, MATERIALS, PATTERNS, RGB

MARKS: Final = ("star", "cross", "ring", "triangle", "heart")
MARK_SIZE: Final = (0.15, 0.22)
"""Least and largest radius, in the thing's unit square."""
SHADE_JITTER: Final = 14
"""Largest departure, per channel, of an identity's own shade from the named colour (0..255)."""


@dataclass(frozen=True, kw_only=True)
class Shade:
    """A colour by name, and the identity's own departure from it that no word tells."""

    name: str
    offset: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        require_known("colour", self.name, COLOURS)

    @property
    def rgb(self) -> RGB:
        r, g, b = (
            min(255, max(0, base + add))
            for base, add in zip(COLOURS[self.name], self.offset, strict=True)
        )
        return r, g, b


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """`phase` in [0, 1) of a period; `scale` = periods across the unit square; `angle` degrees."""

    kind: str
    phase: float = 0.0
    scale: float = 3.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        require_known("pattern", self.kind, PATTERNS)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A small sign on the body: position in [-1, 1]^2 of the category's mark area."""

    kind: str
    x: float
    y: float
    size: float
    colour: RGB

    def __post_init__(self) -> None:
        require_known("mark", self.kind, MARKS)


@dataclass(frozen=True, kw_only=True)
class Accessory:
    """Something worn: a hat, a scarf or a bow, in a shade of its own."""

    kind: str
    shade: Shade

    def __post_init__(self) -> None:
        require_known("accessory", self.kind, ACCESSORIES)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One identity. Pose, scale and light are not part of it (see `Frame`, `Light`).

    Raises UserError for a category, colour, pattern, material or accessory the world does not know.
    """

    category: str
    base: Shade
    second: Shade
    pattern: Pattern
    material: str
    shape: tuple[float, float, float]
    """Three shape parameters in [-1, 1]; their meaning is the category's."""
    marks: tuple[Mark, ...] = ()
    accessory: Accessory | None = None

    def __post_init__(self) -> None:
        require_known("category", self.category, CATEGORIES)
        require_known("material", self.material, MATERIALS)

    @property
    def colour(self) -> str:
        return self.base.name

    def vector(self) -> NDArray[np.float32]:
        """The identity as numbers, each about [0, 1], the same layout for every subject."""
        pattern, marks = self.pattern, np.zeros((2, len(MARKS) + 6), np.float32)
        for row, mark in zip(marks, self.marks, strict=False):
            row[MARKS.index(mark.kind)] = 1
            row[-6:-3] = (mark.x + 1) / 2, (mark.y + 1) / 2, mark.size / MARK_SIZE[1]
            row[-3:] = np.array(mark.colour, np.float32) / 255
        worn = self.accessory
        return np.concatenate(
            [
                _one_hot(self.category, CATEGORIES),
                np.array(self.base.rgb, np.float32) / 255,
                np.array(self.second.rgb, np.float32) / 255,
                _one_hot(pattern.kind, PATTERNS),
                np.array([pattern.phase, pattern.scale / 5, pattern.angle / 180], np.float32),
                _one_hot(self.material, MATERIALS),
                (np.array(self.shape, np.float32) + 1) / 2,
                marks.ravel(),
                _one_hot(worn.kind if worn else None, ACCESSORIES),
                np.array(worn.shade.rgb if worn else (0, 0, 0), np.float32) / 255,
            ]
        )


@dataclass(frozen=True, kw_only=True)
class Edit:
    """What to change of an identity; `None` keeps. See `captions.describe_edit`.

    Raises UserError for a word the world does not know.
    """

    colour: str | None = None
    pattern: str | None = None
    material: str | None = None
    accessory: str | None = None
    accessory_colour: str = "red"

    def __post_init__(self) -> None:
        named = (
            ("colour", self.colour, COLOURS),
            ("pattern", self.pattern, PATTERNS),
            ("material", self.material, MATERIALS),
            ("accessory", self.accessory, ACCESSORIES),
            ("colour", self.accessory_colour, COLOURS),
        )
        for what, word, words in named:
            if word is not None:
                require_known(what, word, words)

    def apply(self, subject: Subject) -> Subject:
        """The edited subject: everything that the edit does not name stays."""
        if self.colour:
            subject = replace(subject, base=Shade(name=self.colour))
            if subject.second.name == self.colour:
                subject = replace(subject, second=Shade(name=_contrast(self.colour)))
        if self.pattern:
            subject = replace(subject, pattern=replace(subject.pattern, kind=self.pattern))
        if self.material:
            subject = replace(subject, material=self.material)
        if self.accessory:
            worn = Accessory(kind=self.accessory, shade=Shade(name=self.accessory_colour))
            subject = replace(subject, accessory=worn)
        return subject


def sample_subject(
    rng: np.random.Generator, *, category: str | None = None, accessory: bool | None = None
) -> Subject:
    """An identity; `accessory` None = one in eight wears something.

    Raises UserError for an unknown category.
    """
    category = pick(rng, CATEGORIES) if category is None else category
    base = sample_shade(rng)
    second = sample_shade(rng, unlike=base.name)
    wears = bool(rng.random() < 0.125) if accessory is None else accessory
    return Subject(
        category=category,
        base=base,
        second=second,
        pattern=_sample_pattern(rng),
        material=pick(rng, MATERIALS),
        shape=(_unit(rng), _unit(rng), _unit(rng)),
        marks=tuple(_sample_mark(rng, base.name) for _ in range(int(rng.integers(0, 3)))),
        accessory=sample_accessory(rng, unlike=base.name) if wears else None,
    )


def sample_shade(rng: np.random.Generator, *, unlike: str | None = None) -> Shade:
    """A named colour, other than the one named `unlike`, and a departure from it."""
    name = pick(rng, [colour for colour in COLOURS if colour != unlike])
    r, g, b = (int(v) for v in rng.integers(-SHADE_JITTER, SHADE_JITTER + 1, 3))
    return Shade(name=name, offset=(r, g, b))


def sample_accessory(rng: np.random.Generator, *, unlike: str | None = None) -> Accessory:
    """Something to wear, in another colour than the one named `unlike`."""
    return Accessory(kind=pick(rng, ACCESSORIES), shade=sample_shade(rng, unlike=unlike))


def _sample_pattern(rng: np.random.Generator) -> Pattern:
    return Pattern(
        kind=pick(rng, PATTERNS),
        phase=float(rng.random()),
        scale=float(rng.uniform(2.2, 3.6)),
        angle=float(rng.uniform(-25, 25)) + float(rng.choice([0.0, 90.0])),
    )


def _sample_mark(rng: np.random.Generator, body: str) -> Mark:
    return Mark(
        kind=pick(rng, MARKS),
        x=_unit(rng),
        y=_unit(rng),
        size=float(rng.uniform(*MARK_SIZE)),
        colour=sample_shade(rng, unlike=body).rgb,
    )


def _contrast(colour: str) -> str:
    return "black" if sum(COLOURS[colour]) > 500 else "white"


def _unit(rng: np.random.Generator) -> float:
    return float(rng.uniform(-1, 1))


def _one_hot(name: str | None, names: tuple[str, ...]) -> NDArray[np.float32]:
    return np.array([name == other for other in names], np.float32)
