"""What each category looks like: named parts in the unit square, bent by three shape parameters.

Each function takes `(a, b, c)` in [-1, 1] and returns parts back to front. They are what a
caption cannot carry about a shape: how wide, how tall, how long a handle or an ear.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from insitu.world.geometry import Outline, arc, band, box, ellipse, polygon, superellipse, trapezoid
from insitu.world.vocabulary import CATEGORIES, RGB

Paint = Literal["body", "second", "dark"] | RGB
"""body = base colour, pattern, material; second = second colour; dark = a shade of the base."""

EYE: Final[RGB] = (24, 22, 26)
GLASS: Final[RGB] = (186, 222, 240)
TYRE: Final[RGB] = (46, 46, 52)
CREAM: Final[RGB] = (250, 246, 232)
BEAK: Final[RGB] = (244, 156, 34)


@dataclass(frozen=True)
class Part:
    name: str
    outline: Outline
    paint: Paint = "body"


@dataclass(frozen=True)
class Shape:
    """Parts back to front, and where a hat, a scarf or a mark goes (all in the unit square)."""

    parts: tuple[Part, ...]
    top: tuple[float, float, float]
    """x, y and half width of the place a hat sits on."""
    neck: tuple[float, float, float]
    """x, y and half width of the place a scarf or bow is tied at."""
    marks: tuple[float, float, float, float]
    """Centre and half extents of the area that can carry marks."""


def _shape(
    *parts: Part,
    top: tuple[float, float, float],
    neck: tuple[float, float, float],
    marks: tuple[float, float, float, float],
) -> Shape:
    return Shape(parts, top, neck, marks)


def mug(a: float, b: float, c: float) -> Shape:
    half, high, grip = 0.56 + 0.12 * a, 0.62 + 0.16 * b, 0.26 + 0.08 * c
    x = -0.18
    return _shape(
        Part("handle", arc(x + half, 0.08, grip + 0.06, 0.34, 0.17, -90, 90), "body"),
        Part("body", trapezoid(-high, half, 0.8, half * 0.86, x), "body"),
        Part("rim", ellipse(x, -high, half, 0.13), "second"),
        top=(x, -high, half * 0.8), neck=(x, 0.15, half * 0.94), marks=(x, 0.2, half * 0.6, 0.35),
    )  # fmt: skip


def teapot(a: float, b: float, c: float) -> Shape:
    half, high, spout = 0.56 + 0.06 * a, 0.46 + 0.08 * b, 0.34 + 0.1 * c
    return _shape(
        Part("handle", arc(half, 0.12, 0.3, 0.32, 0.13, -100, 100), "second"),
        Part("spout", polygon((-half + 0.12, 0.36), (-half + 0.16, 0.04), (-0.98, -spout),
                              (-0.78, -spout - 0.08)), "body"),
        Part("body", ellipse(0, 0.2, half, high + 0.12), "body"),
        Part("lid", ellipse(0, -high + 0.2, 0.32, 0.17, 180, 360), "second"),
        Part("knob", ellipse(0, -high - 0.02, 0.1, 0.1), "second"),
        top=(0, -high + 0.0, 0.36), neck=(0, 0.02, half * 0.9), marks=(0, 0.3, 0.34, 0.24),
    )  # fmt: skip


def bottle(a: float, b: float, c: float) -> Shape:
    half, shoulder, neck = 0.3 + 0.07 * a, -0.22 + 0.12 * b, 0.12 + 0.03 * c
    return _shape(
        Part("neck", box(-neck, -0.8, neck, shoulder), "body"),
        Part("body", polygon((-neck, shoulder - 0.2), (neck, shoulder - 0.2), (half, shoulder),
                             (half, 0.95), (-half, 0.95), (-half, shoulder)), "body"),
        Part("cap", box(-neck - 0.04, -0.98, neck + 0.04, -0.74), "second"),
        Part("label", box(-half, 0.2, half, 0.6), CREAM),
        top=(0, -0.92, 0.24), neck=(0, shoulder - 0.2, neck + 0.1), marks=(0, 0.4, half * 0.6, 0.1),
    )  # fmt: skip


def lamp(a: float, b: float, c: float) -> Shape:
    wide, narrow, drop = 0.68 + 0.12 * a, 0.3 + 0.1 * b, 0.05 + 0.12 * c
    return _shape(
        Part("stem", box(-0.07, drop, 0.07, 0.85), "dark"),
        Part("base", ellipse(0, 0.86, 0.4, 0.12), "second"),
        Part("shade", trapezoid(-0.9, narrow, drop, wide), "body"),
        top=(0, -0.88, narrow), neck=(0, drop + 0.12, 0.2), marks=(0, -0.3, 0.32, 0.22),
    )  # fmt: skip


def car(a: float, b: float, c: float) -> Shape:
    roof, cabin, wheel = -0.5 - 0.1 * a, 0.42 + 0.1 * b, 0.21 + 0.04 * c
    return _shape(
        Part("cabin", trapezoid(roof, cabin * 0.72, 0.02, cabin + 0.12, 0.04), "body"),
        Part("window", trapezoid(roof + 0.1, cabin * 0.58, -0.04, cabin - 0.04, 0.04), GLASS),
        Part("body", superellipse(0, 0.2, 0.97, 0.28, 4), "body"),
        Part("door", band(0.04, -0.02, 0.04, 0.4, 0.05), "dark"),
        Part("wheel", ellipse(-0.54, 0.46, wheel, wheel), TYRE),
        Part("wheel", ellipse(0.54, 0.46, wheel, wheel), TYRE),
        Part("hub", ellipse(-0.54, 0.46, wheel * 0.45, wheel * 0.45), "second"),
        Part("hub", ellipse(0.54, 0.46, wheel * 0.45, wheel * 0.45), "second"),
        Part("headlight", ellipse(-0.86, 0.14, 0.08, 0.08), (255, 240, 170)),
        top=(0.04, roof + 0.02, 0.3), neck=(0.0, 0.05, 0.6), marks=(0.0, 0.2, 0.26, 0.08),
    )  # fmt: skip


def boat(a: float, b: float, c: float) -> Shape:
    hull, sail, lean = 0.28 + 0.06 * a, 0.66 + 0.1 * b, 0.1 * c
    return _shape(
        Part("mast", box(-0.05, -0.96, 0.05, 0.45), "dark"),
        Part("sail", polygon((0.08, -0.9), (sail + lean, 0.22), (0.08, 0.28)), "body"),
        Part("jib", polygon((-0.08, -0.72), (-0.52 + lean, 0.22), (-0.08, 0.28)), "second"),
        Part("hull", polygon((-0.96, 0.36), (0.96, 0.36), (0.62, 0.52 + hull),
                             (-0.62, 0.52 + hull)), "body"),
        top=(0, -0.9, 0.22), neck=(0, 0.3, 0.5), marks=(0, 0.56, 0.5, 0.08),
    )  # fmt: skip


def house(a: float, b: float, c: float) -> Shape:
    half, eaves, ridge = 0.66 + 0.1 * a, -0.32 + 0.1 * b, 0.12 * c
    return _shape(
        Part("chimney", box(0.3, eaves - 0.6, 0.5, eaves), "dark"),
        Part("walls", box(-half, eaves, half, 0.9), "body"),
        Part("roof", polygon((-half - 0.16, eaves), (ridge, eaves - 0.5), (half + 0.16, eaves)),
             "second"),
        Part("door", box(-0.14, 0.38, 0.16, 0.9), "dark"),
        Part("window", box(-half + 0.12, 0.0, -half + 0.38, 0.28), GLASS),
        Part("window", box(half - 0.38, 0.0, half - 0.12, 0.28), GLASS),
        top=(ridge, eaves - 0.4, 0.3), neck=(0, eaves + 0.05, half), marks=(0, 0.12, 0.16, 0.1),
    )  # fmt: skip


def clock(a: float, b: float, c: float) -> Shape:
    half, face, hand = 0.74 + 0.06 * a, 0.56 + 0.06 * b, 70 * c
    hx, hy = ellipse(0, 0, 0.34, 0.34, hand, hand + 1)[0]
    return _shape(
        Part("foot", band(-0.4, 0.5, -0.6, 0.95, 0.16), "dark"),
        Part("foot", band(0.4, 0.5, 0.6, 0.95, 0.16), "dark"),
        Part("bell", ellipse(-0.46, -0.68, 0.26, 0.2, 150, 350), "second"),
        Part("bell", ellipse(0.46, -0.68, 0.26, 0.2, 190, 390), "second"),
        Part("case", ellipse(0, 0.04, half, half), "body"),
        Part("dial", ellipse(0, 0.04, face - 0.08, face - 0.08), CREAM),
        Part("hand", band(0, 0.04, 0.0, -0.36, 0.09), EYE),
        Part("hand", band(0, 0.04, float(hx), 0.04 + float(hy), 0.09), EYE),
        top=(0, -half + 0.08, 0.34), neck=(0, 0.62, 0.5), marks=(0.0, 0.25, 0.2, 0.06),
    )  # fmt: skip


def backpack(a: float, b: float, c: float) -> Shape:
    half, high, pocket = 0.56 + 0.08 * a, 0.68 + 0.1 * b, 0.2 + 0.05 * c
    return _shape(
        Part("strap", arc(-half, 0.1, 0.22, 0.5, 0.14, 90, 270), "dark"),
        Part("strap", arc(half, 0.1, 0.22, 0.5, 0.14, -90, 90), "dark"),
        Part("handle", arc(0, -high, 0.18, 0.2, 0.11, 180, 360), "dark"),
        Part("body", superellipse(0, 0.12, half, high + 0.12, 3.6), "body"),
        Part("pocket", superellipse(0, 0.54, half * 0.64, pocket, 4), "second"),
        Part("zip", band(-half * 0.6, -0.22, half * 0.6, -0.22, 0.06), "dark"),
        top=(0, -high + 0.06, 0.36), neck=(0, -0.05, half), marks=(0, 0.0, 0.3, 0.14),
    )  # fmt: skip


def guitar(a: float, b: float, c: float) -> Shape:
    low, waist, head = 0.46 + 0.07 * a, 0.33 + 0.05 * b, 0.13 + 0.03 * c
    return _shape(
        Part("neck", box(-0.075, -0.8, 0.075, 0.2), "dark"),
        Part("head", trapezoid(-0.98, head, -0.72, head * 0.75), "second"),
        Part("bout", ellipse(0, 0.06, waist, 0.28), "body"),
        Part("body", ellipse(0, 0.54, low, 0.42), "body"),
        Part("hole", ellipse(0, 0.26, 0.13, 0.13), EYE),
        Part("bridge", box(-0.18, 0.62, 0.18, 0.7), "second"),
        top=(0, -0.92, 0.2), neck=(0, -0.2, 0.2), marks=(0, 0.54, 0.3, 0.06),
    )  # fmt: skip


def boot(a: float, b: float, c: float) -> Shape:
    shaft, high, toe = 0.3 + 0.05 * a, 0.86 + 0.08 * b, 0.8 + 0.1 * c
    x = 0.28
    return _shape(
        Part("body", polygon((x - shaft, -high), (x + shaft, -high), (x + shaft + 0.04, 0.76),
                             (-toe, 0.76), (-toe, 0.5), (-toe + 0.2, 0.24), (x - shaft, 0.1)),
             "body"),
        Part("cuff", box(x - shaft - 0.06, -high, x + shaft + 0.06, -high + 0.24), "second"),
        Part("sole", box(-toe - 0.06, 0.74, x + shaft + 0.1, 0.92), "dark"),
        top=(x, -high + 0.05, shaft), neck=(x, -0.3, shaft), marks=(x, -0.1, shaft * 0.5, 0.3),
    )  # fmt: skip


def shirt(a: float, b: float, c: float) -> Shape:
    half, hem, sleeve = 0.5 + 0.06 * a, 0.84 + 0.08 * b, 0.2 + 0.16 * c
    return _shape(
        Part("sleeve", polygon((-half, -0.74), (-0.98, -0.3 + sleeve), (-0.74, 0.02 + sleeve),
                               (-half + 0.06, -0.18)), "body"),
        Part("sleeve", polygon((half, -0.74), (0.98, -0.3 + sleeve), (0.74, 0.02 + sleeve),
                               (half - 0.06, -0.18)), "body"),
        Part("body", polygon((-half, -0.76), (half, -0.76), (half - 0.02, hem),
                             (-half + 0.02, hem)), "body"),
        Part("collar", ellipse(0, -0.76, 0.27, 0.2, 0, 180), "second"),
        top=(0, -0.72, 0.3), neck=(0, -0.56, 0.34), marks=(0, -0.1, 0.3, 0.24),
    )  # fmt: skip


def umbrella(a: float, b: float, c: float) -> Shape:
    wide, high, hook = 0.9 + 0.07 * a, 0.74 + 0.1 * b, 0.17 + 0.04 * c
    scallop = [ellipse(wide * x, 0.0, wide / 3, 0.12, 180, 360) for x in (-2 / 3, 0, 2 / 3)]
    return _shape(
        Part("shaft", box(-0.05, -0.2, 0.05, 0.78), "dark"),
        Part("hook", arc(hook, 0.76, hook, 0.16, 0.1, 0, 180), "dark"),
        Part("canopy", ellipse(0, 0.02, wide, high + 0.1, 180, 360), "body"),
        *(Part("scallop", outline, "second") for outline in scallop),
        Part("tip", box(-0.05, -high - 0.22, 0.05, -high), "dark"),
        top=(0, -high + 0.0, 0.34), neck=(0, 0.3, 0.16), marks=(0, -0.36, 0.4, 0.14),
    )  # fmt: skip


def cat(a: float, b: float, c: float) -> Shape:
    head, body, ear = 0.42 + 0.05 * a, 0.46 + 0.08 * b, 0.36 + 0.08 * c
    y = -0.36
    return _shape(
        Part("tail", arc(0.5, 0.3, 0.3, 0.44, 0.14, -80, 110), "body"),
        Part("body", ellipse(0, 0.5, body, 0.46), "body"),
        Part("belly", ellipse(0, 0.6, body * 0.5, 0.3), "second"),
        Part("ear", polygon((-head, y - 0.02), (-head + 0.04, y - head - ear + 0.16),
                            (-0.06, y - head + 0.1)), "body"),
        Part("ear", polygon((head, y - 0.02), (head - 0.04, y - head - ear + 0.16),
                            (0.06, y - head + 0.1)), "body"),
        Part("head", ellipse(0, y, head + 0.06, head - 0.04), "body"),
        Part("eye", ellipse(-0.19, y - 0.02, 0.085, 0.1), EYE),
        Part("eye", ellipse(0.19, y - 0.02, 0.085, 0.1), EYE),
        Part("nose", polygon((-0.08, y + 0.14), (0.08, y + 0.14), (0, y + 0.24)), (232, 120, 130)),
        top=(0, y - head + 0.14, 0.3), neck=(0, 0.06, 0.34), marks=(0, 0.34, body * 0.6, 0.12),
    )  # fmt: skip


def dog(a: float, b: float, c: float) -> Shape:
    body, leg, ear = 0.24 + 0.04 * a, 0.5 + 0.08 * b, 0.3 + 0.1 * c
    return _shape(
        Part("tail", band(0.66, 0.02, 0.94, -0.42, 0.15), "body"),
        *(Part("leg", box(x, 0.1, x + 0.17, 0.4 + leg), "body") for x in (-0.4, -0.14, 0.36, 0.6)),
        Part("body", superellipse(0.18, 0.12, 0.6, body + 0.08, 3), "body"),
        Part("head", ellipse(-0.46, -0.34, 0.34, 0.34), "body"),
        Part("snout", superellipse(-0.76, -0.2, 0.22, 0.16, 3), "second"),
        Part("ear", ellipse(-0.26, -0.2 + 0.2 * ear, 0.14, ear), "second"),
        Part("eye", ellipse(-0.54, -0.42, 0.075, 0.085), EYE),
        Part("nose", ellipse(-0.92, -0.26, 0.085, 0.08), EYE),
        top=(-0.44, -0.62, 0.28), neck=(-0.28, 0.0, 0.27), marks=(0.26, 0.1, 0.3, 0.12),
    )  # fmt: skip


def bird(a: float, b: float, c: float) -> Shape:
    body, head, tail = 0.44 + 0.06 * a, 0.28 + 0.04 * b, 0.3 + 0.12 * c
    return _shape(
        Part("leg", band(-0.04, 0.5, -0.08, 0.95, 0.08), BEAK),
        Part("leg", band(0.2, 0.5, 0.18, 0.95, 0.08), BEAK),
        Part("tail", polygon((0.4, 0.06), (0.98, -tail), (0.98, 0.12), (0.5, 0.34)), "body"),
        Part("body", ellipse(0.1, 0.2, 0.6, body), "body"),
        Part("beak", polygon((-0.68, -0.46), (-0.98, -0.3), (-0.66, -0.22)), BEAK),
        Part("head", ellipse(-0.42, -0.34, head + 0.04, head + 0.04), "body"),
        Part("wing", ellipse(0.24, 0.18, 0.3, body * 0.42), "second"),
        Part("eye", ellipse(-0.5, -0.4, 0.075, 0.075), EYE),
        top=(-0.4, -0.36 - head, 0.24), neck=(-0.26, -0.08, 0.3), marks=(-0.16, 0.34, 0.16, 0.12),
    )  # fmt: skip


def fish(a: float, b: float, c: float) -> Shape:
    high, tail, fin = 0.46 + 0.1 * a, 0.44 + 0.1 * b, 0.3 + 0.1 * c
    return _shape(
        Part("tail", polygon((0.4, 0.04), (0.97, -tail + 0.04), (0.84, 0.04), (0.97, tail + 0.04)),
             "second"),
        Part("fin", polygon((-0.3, -high + 0.12), (0.1, -high - fin), (0.32, -high + 0.2)), "body"),
        Part("body", ellipse(-0.2, 0.04, 0.74, high), "body"),
        Part("gill", arc(-0.62, 0.04, 0.22, 0.3, 0.06, -60, 60), "dark"),
        Part("fin", polygon((-0.1, 0.1), (0.22, 0.0), (0.2, 0.32)), "second"),
        Part("eye", ellipse(-0.64, -0.1, 0.12, 0.12), CREAM),
        Part("pupil", ellipse(-0.66, -0.1, 0.065, 0.07), EYE),
        top=(-0.3, -high + 0.1, 0.3), neck=(-0.28, 0.04, 0.3), marks=(0.1, -0.16, 0.22, 0.1),
    )  # fmt: skip


def rabbit(a: float, b: float, c: float) -> Shape:
    ear, head, body = 0.36 + 0.07 * a, 0.34 + 0.04 * b, 0.46 + 0.07 * c
    y = -0.2
    return _shape(
        Part("tail", ellipse(body, 0.66, 0.15, 0.15), CREAM),
        Part("ear", ellipse(-0.19, -0.64, 0.125, ear), "body"),
        Part("ear", ellipse(0.19, -0.64, 0.125, ear), "body"),
        Part("inner ear", ellipse(-0.19, -0.62, 0.06, ear * 0.72), (244, 176, 186)),
        Part("inner ear", ellipse(0.19, -0.62, 0.06, ear * 0.72), (244, 176, 186)),
        Part("body", ellipse(0, 0.56, body, 0.42), "body"),
        Part("belly", ellipse(0, 0.64, body * 0.44, 0.22), "second"),
        Part("head", ellipse(0, y, head + 0.06, head), "body"),
        Part("eye", ellipse(-0.17, y - 0.04, 0.075, 0.09), EYE),
        Part("eye", ellipse(0.17, y - 0.04, 0.075, 0.09), EYE),
        Part("nose", ellipse(0, y + 0.12, 0.07, 0.05), (232, 120, 130)),
        top=(0, y - head + 0.06, 0.3), neck=(0, 0.16, 0.3), marks=(0, 0.4, body * 0.6, 0.1),
    )  # fmt: skip


SHAPES: Final[dict[str, Callable[[float, float, float], Shape]]] = {
    name: globals()[name] for name in CATEGORIES
}
