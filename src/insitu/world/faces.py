"""Faces and people: identity as continuous parameters; expression, pose and light vary."""

from dataclasses import astuple, dataclass, fields, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.world.randomness import pick
from insitu.world.subjects import Accessory, Subject, sample_accessory, sample_subject
from insitu.world.vocabulary import HAIR_COLOURS, HAIR_LENGTHS, RGB

_SKIN: Final = np.array([[255, 224, 200], [236, 186, 142], [182, 122, 80], [98, 62, 44]], float)


@dataclass(frozen=True, kw_only=True)
class Face:
    """An identity: continuous numbers in [0, 1]; a caption tells only hair, glasses and beard.

    Raises UserError for a number outside [0, 1].
    """

    tone: float
    undertone: float
    width: float
    length: float
    jaw: float
    hair_colour: float
    """Position along the named hair colours, in the order of `HAIR_COLOURS`."""
    hair_length: float
    hair_volume: float
    fringe: float
    parting: float
    brow_weight: float
    brow_angle: float
    eye_spacing: float
    eye_size: float
    eye_colour: float
    nose_width: float
    nose_length: float
    mouth_width: float
    lip: float
    glasses: float
    """Worn above 0.65; how round, thick and wide they are lies between there and 1."""
    beard: float
    """Worn above 0.7."""
    mole_x: float
    mole_y: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise UserError(
                    f"A face with {name}={value} was given.",
                    "Every number of a face runs from 0 to 1.",
                    "Clip it to that range.",
                )

    def vector(self) -> NDArray[np.float32]:
        return np.array(astuple(self), np.float32)

    @property
    def hair(self) -> str:
        return list(HAIR_COLOURS)[min(int(self.hair_colour * 5), 4)]

    @property
    def hair_style(self) -> str:
        return HAIR_LENGTHS[0 if self.hair_length < 0.12 else 1 if self.hair_length < 0.55 else 2]

    @property
    def wears_glasses(self) -> bool:
        return self.glasses > 0.65

    @property
    def has_beard(self) -> bool:
        return self.beard > 0.7

    @property
    def hair_rgb(self) -> RGB:
        """The named colour, shifted a little by where in its interval the parameter lies."""
        within = self.hair_colour * 5 - min(int(self.hair_colour * 5), 4)
        r, g, b = HAIR_COLOURS[self.hair]
        shift = round(28 * (within - 0.5))
        return clip_channel(r + shift), clip_channel(g + shift), clip_channel(b + shift)

    @property
    def skin_rgb(self) -> RGB:
        at = self.tone * 3
        low = min(int(at), 2)
        mix = _SKIN[low] + (at - low) * (_SKIN[low + 1] - _SKIN[low])
        warm = 16 * (self.undertone - 0.5)
        return clip_channel(mix[0] + warm), clip_channel(mix[1]), clip_channel(mix[2] - warm)


@dataclass(frozen=True, kw_only=True)
class Expression:
    """`smile`, `yaw` in [-1, 1], `open` in [0, 1], `roll` in degrees."""

    smile: float = 0.3
    open: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Person:
    """A face above a garment: a `shirt` subject that wears nothing itself.

    Raises UserError for another garment.
    """

    face: Face
    garment: Subject
    accessory: Accessory | None = None
    expression: Expression = Expression()

    def __post_init__(self) -> None:
        if self.garment.category != "shirt" or self.garment.accessory:
            raise UserError(
                f"A person was given a {self.garment.category} as garment"
                + (", with an accessory of its own." if self.garment.accessory else "."),
                "People wear shirts; what they wear besides is the person's own accessory.",
                'Give a subject of category "shirt" without accessory.',
            )

    @property
    def category(self) -> str:
        return "person"


def sample_face(rng: np.random.Generator) -> Face:
    """An identity, every number uniform."""
    return Face(**{field.name: float(rng.random()) for field in fields(Face)})


def sample_expression(rng: np.random.Generator) -> Expression:
    """A look: mostly smiling, the mouth open in half of the draws, the head turned and rolled."""
    return Expression(
        smile=float(rng.uniform(-0.6, 1)),
        open=float(max(0.0, rng.uniform(-1, 1))),
        yaw=float(rng.uniform(-0.8, 0.8)),
        roll=float(rng.uniform(-10, 10)),
    )


def sample_person(rng: np.random.Generator, *, face: Face | None = None) -> Person:
    """Somebody with a garment and a look; one in ten wears a hat or a scarf."""
    person = Person(
        face=face or sample_face(rng),
        garment=sample_subject(rng, category="shirt", accessory=False),
        expression=sample_expression(rng),
    )
    if rng.random() < 0.1:
        worn = sample_accessory(rng)
        person = replace(person, accessory=replace(worn, kind=pick(rng, ("hat", "scarf"))))
    return person


def clip_channel(value: float) -> int:
    """A colour channel, rounded into 0..255."""
    return min(255, max(0, round(value)))
