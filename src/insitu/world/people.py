"""How a person is painted: torso, neck, head, features and hair; landmarks come from the same."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from insitu.world.accessories import wear
from insitu.world.faces import Expression, Face, Person, clip_channel
from insitu.world.geometry import Frame, Outline, arc, band, ellipse, polygon, superellipse
from insitu.world.paint import Canvas, darker, paint_body
from insitu.world.shapes import Part, Shape
from insitu.world.subjects import Subject
from insitu.world.vocabulary import RGB

HEAD_Y: Final = -0.3
"""Height of the head's centre in a person's unit square."""
EYE_Y, NOSE_Y, MOUTH_Y = -0.06, 0.14, 0.32


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
    throat = polygon((-0.15, 0.1), (0.15, 0.1), (0.17, 0.44), (-0.17, 0.44))
    _fill(canvas, neck, throat, darker(face.skin_rgb, 0.82), "neck")
    outline = _paint_head(canvas, head, face, look, light)
    if person.accessory:
        on_head = person.accessory.kind == "hat"
        wear(canvas, head if on_head else frame, _crown(face), person.accessory)
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
    blue = face.eye_colour
    iris = (round(60 + 60 * blue), round(90 + 60 * blue), round(60 + 150 * blue))
    brow = darker(face.hair_rgb, 0.7)
    for side, x in ((-1, lx), (1, rx)):
        gaze = x + 0.03 * look.yaw
        _fill(canvas, head, ellipse(x, ey, size * 1.3, size), (250, 250, 250), "face")
        _fill(canvas, head, ellipse(gaze, ey, size * 0.72, size * 0.8), iris, "face")
        _fill(canvas, head, ellipse(gaze, ey, size * 0.4, size * 0.45), (16, 14, 18), "face")
        slope = side * (face.brow_angle - 0.5) * 0.16
        y = ey - size - 0.1 - 0.03 * look.smile
        hair = band(x - 0.15, y + slope, x + 0.15, y - slope, 0.035 + 0.07 * face.brow_weight)
        _fill(canvas, head, hair, brow, "face")
        if face.wears_glasses:
            _glasses(canvas, head, face, x, ey, side)
    wide = 0.05 + 0.06 * face.nose_width
    nose = polygon((nx - wide, ny), (nx * 0.85, ey + 0.1), (nx + wide, ny), (nx, ny + 0.05))
    _fill(canvas, head, nose, darker(face.skin_rgb, 0.72), "face")
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
    return clip_channel(0.4 * r + 100), clip_channel(0.35 * g + 14), clip_channel(0.35 * b + 24)


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
    ends = high * 0.5 + drop
    return np.concatenate([top, [(wide + 0.02, ends), (-wide - 0.02, ends)]])


def _beard(face: Face, look: Expression) -> Outline:
    half, high = _size(face)
    full = 0.5 + (face.beard - 0.7) / 0.3 * 0.5
    jaw = _jaw(face) * (1.02, 1.04)
    below = jaw[jaw[:, 1] > high * (0.42 - 0.3 * full)]
    angle = np.argsort(np.arctan2(below[:, 1], below[:, 0]))
    turn = 0.16 * look.yaw
    lip = [(turn - half * 0.2, high * 0.28), (turn + half * 0.2, high * 0.28)]
    return np.concatenate([below[angle], lip])


def _glasses(canvas: Canvas, head: Frame, face: Face, x: float, y: float, side: int) -> None:
    style = (face.glasses - 0.65) / 0.35
    power = 2.0 + 4.0 * (1 - style)
    rim = superellipse(x, y, 0.2 + 0.03 * style, 0.15 + 0.05 * style, power)
    placed = head.place(rim)
    colour: RGB = (24, 24, 28) if style < 0.5 else (150, 40, 40)
    canvas.line(placed, colour, (0.03 + 0.03 * (1 - style)) * head.size, part="face")
    arm = head.place(polygon((x - side * 0.2, y), (x + side * 0.34, y - 0.02)))
    canvas.line(arm, colour, 0.03 * head.size, part="face", closed=False)


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
