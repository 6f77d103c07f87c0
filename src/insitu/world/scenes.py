"""Scenes: things at places, back to front, on a background, in a style and a light."""

from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.world.accessories import wear
from insitu.world.backgrounds import paint_background, restyle
from insitu.world.faces import HEAD_Y, Face, Person, paint_person, sample_expression, sample_person
from insitu.world.geometry import Frame, Outline, box, ellipse
from insitu.world.paint import Canvas, Image, paint_body
from insitu.world.randomness import pick, rng_for
from insitu.world.shapes import SHAPES
from insitu.world.subjects import Subject, sample_subject
from insitu.world.vocabulary import BACKGROUNDS, COLOURS, STYLES

Thing = Subject | Person
MAX_THINGS: Final = 4
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
    """Things and frames run back to front and have equal length (1 to 4)."""

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


@dataclass(frozen=True)
class RenderedThing:
    """Ground truth of one thing; masks and boxes speak of its visible pixels."""

    thing: Thing
    box_xyxy01: tuple[float, float, float, float]
    mask: NDArray[np.bool_]
    visible: float
    """Share of its own silhouette (inside the picture) that nothing hides, 0..1."""
    landmarks_xy01: NDArray[np.float64] | None
    face_box_xyxy01: tuple[float, float, float, float] | None
    parts: dict[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Rendering:
    image: Image
    """uint8 [size, size, 3], RGB."""
    things: tuple[RenderedThing, ...]


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
    subjects, None = a quarter of the scenes have people, some beside subjects.
    """
    if things is None:
        count = count or int(rng.choice([1, 2, 3, 4], p=[0.5, 0.28, 0.12, 0.1]))
        things = _sample_things(rng, count, people)
    frames = sample_frames(rng, things)
    order = np.argsort([frame.cy + frame.size for frame in frames], kind="stable")
    styles = [name for name in STYLES if name != "photo"]
    return Scene(
        things=tuple(things[i] for i in order),
        frames=tuple(frames[i] for i in order),
        background=background or pick(rng, list(BACKGROUNDS)),
        background_colour=pick(rng, list(COLOURS)),
        style=style or (pick(rng, styles) if rng.random() < _STYLED else "photo"),
        light=sample_light(rng),
        seed=int(rng.integers(2**31)),
    )


def sample_light(rng: np.random.Generator) -> Light:
    side = float(rng.choice([-1.0, 1.0]))
    return Light(
        direction=(side * float(rng.uniform(0.04, 0.26)), -float(rng.uniform(0.0, 0.2))),
        brightness=float(rng.uniform(0.88, 1.06)),
        warmth=float(rng.uniform(-0.05, 0.05)),
    )


def _sample_things(rng: np.random.Generator, count: int, people: bool | None) -> list[Thing]:
    kind = rng.random()
    if people is None:
        people = bool(kind < 0.22)
    things: list[Thing] = [
        sample_person(rng) if people else sample_subject(rng) for _ in range(count)
    ]
    if not people and 0.22 <= kind < 0.28 and count > 1:
        things[0] = sample_person(rng)
    return things


_SLOTS: Final[dict[int, tuple[tuple[float, float], ...]]] = {
    # Centre x and height of the base line, per thing.
    1: ((0.5, 0.92),),
    2: ((0.27, 0.9), (0.73, 0.9)),
    3: ((0.2, 0.92), (0.5, 0.7), (0.8, 0.92)),
    4: ((0.26, 0.56), (0.74, 0.56), (0.27, 0.97), (0.73, 0.97)),
}
_HALF: Final = {1: (0.27, 0.4), 2: (0.2, 0.27), 3: (0.16, 0.21), 4: (0.16, 0.2)}
_HALF_PERSON: Final = {1: (0.36, 0.46), 2: (0.25, 0.31), 3: (0.21, 0.25), 4: (0.21, 0.24)}


def sample_frames(rng: np.random.Generator, things: "list[Thing]") -> list[Frame]:
    """Where things stand: a slot each, jittered; neighbours may overlap."""
    frames = []
    slots = rng.permutation(len(things))
    for thing, slot in zip(things, slots, strict=True):
        is_person = isinstance(thing, Person)
        low, high = (_HALF_PERSON if is_person else _HALF)[len(things)]
        size = float(rng.uniform(low, high))
        x, base = _SLOTS[len(things)][int(slot)]
        reach = max(0.0, 0.5 - size) * 0.9 if len(things) == 1 else 0.05
        cx = x + float(rng.uniform(-reach, reach))
        base = 1.0 if is_person and base > 0.85 else base + float(rng.uniform(-0.06, 0.03))
        cy = max(base - size, size * 0.9)
        tilt = 0.0 if is_person else float(rng.uniform(-12, 12))
        frames.append(Frame(cx, cy, size, tilt, bool(rng.random() < 0.5)))
    return frames


def render(scene: Scene, size: int = 64, *, parts: bool = False) -> Rendering:
    """Draw a scene at `size` x `size` pixels; `parts` also returns part masks."""
    canvas = Canvas(size)
    stray = rng_for("scene", scene.seed)
    paint_background(canvas, scene.background, scene.background_colour, stray)
    faces: dict[int, tuple[NDArray[np.float64], Outline]] = {}
    for k, (thing, frame) in enumerate(zip(scene.things, scene.frames, strict=True), start=1):
        canvas.begin(k)
        if isinstance(thing, Person):
            faces[k] = paint_person(canvas, frame, thing, scene.light.direction)
        else:
            _paint_subject(canvas, thing, frame, scene.light)
        canvas.end()
    _paint_clutter(canvas, scene.clutter, stray)
    truth = tuple(
        _truth(canvas, k, thing, faces.get(k), parts)
        for k, thing in enumerate(scene.things, start=1)
    )
    return Rendering(_finish(canvas, scene), truth)


def _paint_subject(canvas: Canvas, subject: Subject, frame: Frame, light: Light) -> None:
    shape = SHAPES[subject.category](*subject.shape)
    x, y = frame.cx, frame.cy + frame.size * 0.9
    canvas.shade(ellipse(x, y, frame.size * 0.85, frame.size * 0.14), 0.72)
    paint_body(
        canvas, frame, shape, base=subject.base.rgb, second=subject.second.rgb,
        pattern=subject.pattern, material=subject.material, light=light.direction,
        marks=subject.marks,
    )  # fmt: skip
    if subject.accessory:
        wear(canvas, frame, shape, subject.accessory)


def _paint_clutter(canvas: Canvas, count: int, rng: np.random.Generator) -> None:
    canvas.begin(0)
    for _ in range(count):
        x, y = (float(v) for v in rng.uniform(0.05, 0.95, 2))
        rx, ry = (float(v) for v in rng.uniform(0.04, 0.13, 2))
        r, g, b = (int(v) for v in rng.integers(0, 256, 3))
        outline = ellipse(x, y, rx, ry) if rng.random() < 0.5 else box(x - rx, y - ry, x + rx, y + ry)
        canvas.fill(outline, (r, g, b), part="clutter")


def _finish(canvas: Canvas, scene: Scene) -> Image:
    canvas.rgb = restyle(canvas.rgb, scene.style)
    image = canvas.reduced()
    if scene.style != "line art":
        tint = scene.light.brightness * np.array([1 + scene.light.warmth, 1, 1 - scene.light.warmth])
        table = np.clip(np.rint(np.arange(256)[:, None] * tint), 0, 255).astype(np.uint8)
        image = cv2.LUT(image, table[None])
    if scene.blur:
        image = cv2.GaussianBlur(image, (0, 0), scene.blur * canvas.size)
    return image


def _truth(
    canvas: Canvas, k: int, thing: Thing, face: tuple[NDArray[np.float64], Outline] | None, parts: bool
) -> RenderedThing:
    own = canvas.owner == k
    n = canvas.samples
    rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
    corners = (0.0, 0.0, 0.0, 0.0)
    if rows.size:
        corners = (columns[0] / n, rows[0] / n, (columns[-1] + 1) / n, (rows[-1] + 1) / n)
    face_box = None
    if face is not None:
        low, high = np.clip(face[1].min(0), 0, 1), np.clip(face[1].max(0), 0, 1)
        face_box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    return RenderedThing(
        thing,
        corners,
        _reduced(own, canvas.size),
        float(np.count_nonzero(own)) / max(canvas.owned[k], 1),
        None if face is None else face[0],
        face_box,
        {
            name: _reduced(own & (canvas.part == i), canvas.size)
            for i, name in enumerate(canvas.part_names)
            if parts and name and np.any(own & (canvas.part == i))
        },
    )


def _reduced(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    share = cv2.resize(mask.astype(np.uint8) * 255, (size, size), interpolation=cv2.INTER_AREA)
    return share >= 128


def portrait(thing: Thing, rng: np.random.Generator, size: int = 64) -> Rendering:
    """A reference photo: one thing, large, on a plain backdrop; view and light are drawn."""
    if isinstance(thing, Person):
        thing = replace(thing, expression=sample_expression(rng))
        frame = Frame(0.5, 0.54, 0.46, 0.0, bool(rng.random() < 0.5))
    else:
        half = float(rng.uniform(0.38, 0.46))
        frame = Frame(0.5, 0.5, half, float(rng.uniform(-14, 14)), bool(rng.random() < 0.5))
    return render(_plain(rng, thing, frame), size)


def face_photo(face: Face, rng: np.random.Generator, size: int = 64) -> Rendering:
    """The head large; expression, pose, light, garment and backdrop are drawn."""
    person = replace(sample_person(rng, face=face), accessory=None)
    half = float(rng.uniform(0.64, 0.78))
    frame = Frame(0.5 + float(rng.uniform(-0.05, 0.05)), 0.52 - HEAD_Y * half, half)
    return render(_plain(rng, person, frame), size)


def _plain(rng: np.random.Generator, thing: Thing, frame: Frame) -> Scene:
    colour = pick(rng, ("white", "gray", "blue", "green", "yellow", "pink"))
    return Scene(
        things=(thing,), frames=(frame,), background="wall", background_colour=colour,
        light=sample_light(rng), seed=int(rng.integers(2**31)),
    )  # fmt: skip
