"""Faces and people: identity as continuous parameters; expression, pose and light vary."""

from dataclasses import astuple, dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from insitu.world.accessories import wear
from insitu.world.geometry import Frame, Outline, arc, band, ellipse, polygon, superellipse
from insitu.world.paint import Canvas, darker, paint_body
from insitu.world.randomness import pick
from insitu.world.shapes import Part, Shape
from insitu.world.subjects import Accessory, Subject, sample_accessory, sample_subject
from insitu.world.vocabulary import HAIR_COLOURS, HAIR_LENGTHS, RGB

HEAD_Y: Final = -0.3
"""Height of the head's centre in a person's unit square."""
EYE_Y, NOSE_Y, MOUTH_Y = -0.06, 0.14, 0.32
_SKIN: Final = np.array([[255, 224, 200], [236, 186, 142], [182, 122, 80], [98, 62, 44]], float)


@dataclass(frozen=True, kw_only=True)
class Face:
    """An identity: continuous numbers in [0, 1], of which a caption tells only hair and glasses."""

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
        return _clip(r + shift), _clip(g + shift), _clip(b + shift)

    @property
    def skin_rgb(self) -> RGB:
        at = self.tone * 3
        low = min(int(at), 2)
        mix = _SKIN[low] + (at - low) * (_SKIN[low + 1] - _SKIN[low])
        warm = 16 * (self.undertone - 0.5)
        return _clip(mix[0] + warm), _clip(mix[1]), _clip(mix[2] - warm)


@dataclass(frozen=True, kw_only=True)
class Expression:
    """`smile`, `yaw` in [-1, 1], `open` in [0, 1], `roll` in degrees."""

    smile: float = 0.3
    open: float = 0.0
    yaw: float = 0.0
    roll: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Person:
    """A face above a garment (a `shirt` subject)."""

    face: Face
    garment: Subject
    accessory: Accessory | None = None
    expression: Expression = Expression()

    @property
    def category(self) -> str:
        return "person"


def sample_face(rng: np.random.Generator) -> Face:
    return Face(**{name: float(rng.random()) for name in Face.__dataclass_fields__})


def sample_expression(rng: np.random.Generator) -> Expression:
    return Expression(
        smile=float(rng.uniform(-0.6, 1)),
        open=float(max(0.0, rng.uniform(-1, 1))),
        yaw=float(rng.uniform(-0.8, 0.8)),
        roll=float(rng.uniform(-10, 10)),
    )


def sample_person(rng: np.random.Generator, *, face: Face | None = None) -> Person:
    person = Person(
        face=face or sample_face(rng),
        garment=sample_subject(rng, category="shirt", accessory=False),
        expression=sample_expression(rng),
    )
    if rng.random() < 0.1:
        person = replace(person, accessory=replace(sample_accessory(rng), kind=pick(rng, ("hat", "scarf"))))  # fmt: skip
    return person


def paint_person(
    canvas: Canvas, frame: Frame, person: Person, light: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Paint a bust; landmarks [5, 2] and the head's outline [N, 2], in image coordinates.

    Landmarks: left eye, right eye, nose tip, left and right mouth corner, left as seen in the
    image (insightface's order).
    """
    face, look = person.face, person.expression
    head = _head_frame(frame, look)
    if face.hair_style == "long":
        _fill(canvas, head, _long_hair(face), face.hair_rgb, "hair")
    garment = person.garment
    torso = _torso(garment)
    paint_body(
        canvas, frame, torso, base=garment.base.rgb, second=garment.second.rgb,
        pattern=garment.pattern, material=garment.material, light=light, marks=garment.marks,
        scope="shirt ",
    )  # fmt: skip
    neck = replace(frame, flip=False)
    _fill(canvas, neck, polygon((-0.15, 0.1), (0.15, 0.1), (0.17, 0.44), (-0.17, 0.44)),
          darker(face.skin_rgb, 0.82), "neck")  # fmt: skip
    outline = _paint_head(canvas, head, face, look, light)
    if person.accessory:
        wear(canvas, head if person.accessory.kind == "hat" else frame, _crown(face), person.accessory)
    points = np.array(_landmarks(face, look))
    marks = head.place(points)
    # A flipped frame swaps which eye is on the left of the picture.
    order = np.concatenate([np.argsort(marks[:2, 0]), [2], 3 + np.argsort(marks[3:, 0])])
    return marks[order], outline


def _head_frame(frame: Frame, look: Expression) -> Frame:
    """The head's own unit square (radius about 0.5 of the person's), rolled about its centre."""
    cx, cy = frame.place(np.array([[0.0, HEAD_Y]]))[0]
    return Frame(float(cx), float(cy), frame.size * 0.92, frame.tilt + look.roll, frame.flip)


def _size(face: Face) -> tuple[float, float]:
    return 0.42 + 0.1 * face.width, 0.5 + 0.1 * face.length


def _landmarks(face: Face, look: Expression) -> list[tuple[float, float]]:
    half, high = _size(face)
    turn = 0.16 * look.yaw
    spread = half * (0.36 + 0.16 * face.eye_spacing) * (1 - 0.12 * abs(look.yaw))
    mouth = half * (0.28 + 0.24 * face.mouth_width)
    nose = high * (NOSE_Y + 0.16 * face.nose_length)
    corner = high * (MOUTH_Y + 0.22 - 0.1 * look.smile)
    return [
        (turn - spread, high * EYE_Y), (turn + spread, high * EYE_Y), (turn * 1.35, nose),
        (turn - mouth, corner), (turn + mouth, corner),
    ]  # fmt: skip


def _paint_head(
    canvas: Canvas, head: Frame, face: Face, look: Expression, light: tuple[float, float]
) -> NDArray[np.float64]:
    half, high = _size(face)
    skin, hair = face.skin_rgb, face.hair_rgb
    for side in (-1, 1):
        _fill(canvas, head, ellipse(side * half, 0.02, 0.09, 0.13), darker(skin, 0.88), "face")
    outline = _jaw(face)
    _fill(canvas, head, outline, skin, "face")
    shadow = -0.6 if light[0] > 0 else 0.6
    _fill(canvas, head, ellipse(shadow * half, 0.12, 0.28 * half, 0.6 * high, 0, 360),
          darker(skin, 0.93), "face")  # fmt: skip
    if face.has_beard:
        _fill(canvas, head, _beard(face, look), hair, "beard")
    _paint_features(canvas, head, face, look)
    if face.hair_style != "no":
        _fill(canvas, head, _cap(face), hair, "hair")
    return head.place(outline)


def _paint_features(canvas: Canvas, head: Frame, face: Face, look: Expression) -> None:
    (lx, ey), (rx, _), (nx, ny), (ml, my), (mr, _) = _landmarks(face, look)
    half, high = _size(face)
    size = 0.085 + 0.05 * face.eye_size
    iris = (round(60 + 60 * face.eye_colour), round(90 + 60 * face.eye_colour), round(60 + 150 * face.eye_colour))  # fmt: skip
    brow = darker(face.hair_rgb, 0.7)
    for side, x in ((-1, lx), (1, rx)):
        _fill(canvas, head, ellipse(x, ey, size * 1.3, size), (250, 250, 250), "face")
        _fill(canvas, head, ellipse(x + 0.03 * look.yaw, ey, size * 0.72, size * 0.8), iris, "face")
        _fill(canvas, head, ellipse(x + 0.03 * look.yaw, ey, size * 0.4, size * 0.45), (16, 14, 18), "face")  # fmt: skip
        slope = side * (face.brow_angle - 0.5) * 0.16
        y = ey - size - 0.1 - 0.03 * look.smile
        _fill(canvas, head, band(x - 0.15, y + slope, x + 0.15, y - slope,
                                 0.035 + 0.07 * face.brow_weight), brow, "face")  # fmt: skip
        if face.wears_glasses:
            _glasses(canvas, head, face, x, ey, side)
    wide = 0.05 + 0.06 * face.nose_width
    _fill(canvas, head, polygon((nx - wide, ny), (nx * 0.85, ey + 0.1), (nx + wide, ny), (nx, ny + 0.05)),
          darker(face.skin_rgb, 0.72), "face")  # fmt: skip
    _fill(canvas, head, _mouth(face, look, ml, mr, my), _lips(face), "face")
    mole = ellipse(half * (1.2 * face.mole_x - 0.6), high * (0.1 + 0.5 * face.mole_y), 0.035, 0.035)
    _fill(canvas, head, mole, darker(face.skin_rgb, 0.35), "face")


def _mouth(face: Face, look: Expression, left: float, right: float, y: float) -> Outline:
    """A curved band between the corners, open at the bottom when the mouth is."""
    x = np.linspace(left, right, 9)
    bend = 1 - np.linspace(-1, 1, 9) ** 2
    thick = 0.03 + 0.04 * face.lip
    upper = y + bend * (0.12 * look.smile - thick)
    lower = y + bend * (0.12 * look.smile + thick + 0.14 * look.open) + 0.02
    return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])


def _lips(face: Face) -> RGB:
    r, g, b = face.skin_rgb
    return _clip(0.4 * r + 100), _clip(0.35 * g + 14), _clip(0.35 * b + 24)


def _jaw(face: Face) -> Outline:
    half, high = _size(face)
    outline = superellipse(0, 0, half, high, 2.2 + face.jaw)
    chin = np.clip(outline[:, 1] / high, 0, 1)
    outline[:, 0] *= 1 - chin * (0.34 - 0.28 * face.jaw)
    return outline


def _cap(face: Face) -> Outline:
    """Hair on top: from ear to ear over the crown, down to the fringe."""
    half, high = _size(face)
    lift = 0.06 + 0.14 * face.hair_volume
    crown = ellipse(0, -0.06, half + 0.05 + lift * 0.4, high + lift, 180, 360)
    crown = np.concatenate([crown, [[half + 0.05, -0.02]]])
    edge = -high * (0.78 - 0.36 * face.fringe)
    part = half * (face.parting - 0.5)
    front = [(half * 0.86, -0.12), (half * 0.7, edge), (part, edge - 0.14), (-half * 0.7, edge),
             (-half * 0.86, -0.12)]  # fmt: skip
    return np.concatenate([crown, front])


def _long_hair(face: Face) -> Outline:
    half, high = _size(face)
    drop = 0.2 + 1.5 * (face.hair_length - 0.55)
    wide = half + 0.1 + 0.12 * face.hair_volume
    top = ellipse(0, -0.08, wide, high + 0.1, 180, 360)
    return np.concatenate([top, [(wide + 0.02, high * 0.5 + drop), (-wide - 0.02, high * 0.5 + drop)]])  # fmt: skip


def _beard(face: Face, look: Expression) -> Outline:
    half, high = _size(face)
    full = 0.5 + (face.beard - 0.7) / 0.3 * 0.5
    jaw = _jaw(face) * (1.02, 1.04)
    below = jaw[jaw[:, 1] > high * (0.42 - 0.3 * full)]
    angle = np.argsort(np.arctan2(below[:, 1], below[:, 0]))
    turn = 0.16 * look.yaw
    return np.concatenate([below[angle], [(turn - half * 0.2, high * 0.28), (turn + half * 0.2, high * 0.28)]])  # fmt: skip


def _glasses(canvas: Canvas, head: Frame, face: Face, x: float, y: float, side: int) -> None:
    style = (face.glasses - 0.65) / 0.35
    power = 2.0 + 4.0 * (1 - style)
    rim = superellipse(x, y, 0.2 + 0.03 * style, 0.15 + 0.05 * style, power)
    placed = head.place(rim)
    colour: RGB = (24, 24, 28) if style < 0.5 else (150, 40, 40)
    canvas.line(placed, colour, (0.03 + 0.03 * (1 - style)) * head.size)
    arm = head.place(polygon((x - side * 0.2, y), (x + side * 0.34, y - 0.02)))
    canvas.line(arm, colour, 0.03 * head.size, closed=False)


def _torso(garment: Subject) -> Shape:
    a, b, c = garment.shape
    shoulder, slope = 0.72 + 0.1 * a, 0.5 + 0.06 * b
    body = polygon((-0.22, 0.34), (0.22, 0.34), (shoulder, slope), (shoulder + 0.12, 1.04),
                   (-shoulder - 0.12, 1.04), (-shoulder, slope))  # fmt: skip
    arm = 0.1 + 0.04 * c
    return Shape(
        (
            Part("body", body, "body"),
            Part("sleeve", band(-shoulder + arm, 0.7, -shoulder + arm, 1.04, 0.03), "dark"),
            Part("sleeve", band(shoulder - arm, 0.7, shoulder - arm, 1.04, 0.03), "dark"),
            Part("collar", arc(0, 0.36, 0.22, 0.12, 0.1, 0, 180), "second"),
        ),
        top=(0, 0, 0), neck=(0, 0.4, 0.3), marks=(0, 0.78, 0.4, 0.12),
    )  # fmt: skip


def _crown(face: Face) -> Shape:
    half, high = _size(face)
    return Shape((), top=(0, -high * 0.62, half * 0.95), neck=(0, 0.4, 0.32), marks=(0, 0, 0, 0))


def _fill(canvas: Canvas, frame: Frame, outline: Outline, colour: RGB, part: str) -> None:
    canvas.fill(frame.place(outline), colour, part=part)


def _clip(value: float) -> int:
    return min(255, max(0, round(value)))
