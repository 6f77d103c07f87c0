"""Pictures of scenes and single things, with exact ground truth."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from insitu.world.accessories import wear
from insitu.world.backgrounds import paint_background, restyle
from insitu.world.checks import require_size
from insitu.world.faces import Face, Person, sample_expression, sample_person
from insitu.world.geometry import Frame, Outline, box, ellipse
from insitu.world.paint import Canvas, Image, paint_body
from insitu.world.people import HEAD_Y, paint_person
from insitu.world.randomness import pick, rng_for
from insitu.world.scenes import Light, Scene, Thing, sample_light
from insitu.world.shapes import SHAPES
from insitu.world.subjects import Subject


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


def render(scene: Scene, size: int = 64, *, parts: bool = False) -> Rendering:
    """Draw a scene at `size` x `size` pixels; `parts` also returns part masks.

    Raises UserError for a size that is no positive multiple of 8.
    """
    require_size(size)
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
        is_round = rng.random() < 0.5
        outline = ellipse(x, y, rx, ry) if is_round else box(x - rx, y - ry, x + rx, y + ry)
        canvas.fill(outline, (r, g, b), part="clutter")


def _finish(canvas: Canvas, scene: Scene) -> Image:
    canvas.rgb = restyle(canvas.rgb, scene.style)
    image = canvas.reduced()
    if scene.style != "line art":
        warmth = scene.light.warmth
        tint = scene.light.brightness * np.array([1 + warmth, 1, 1 - warmth])
        table = np.clip(np.rint(np.arange(256)[:, None] * tint), 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, table[None]), np.uint8)
    if scene.blur:
        blurred = cv2.GaussianBlur(image, (0, 0), scene.blur * canvas.size)
        image = np.asarray(blurred, np.uint8)
    return image


def _truth(
    canvas: Canvas,
    k: int,
    thing: Thing,
    face: tuple[NDArray[np.float64], Outline] | None,
    parts: bool,
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
