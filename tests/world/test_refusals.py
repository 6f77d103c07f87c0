"""Proves that input which cannot be drawn or said is refused in three parts, naming what was given.

Needs no checkpoint.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from insitu import world
from insitu.errors import UserError

RNG = world.rng_for("refusals")
MUG = world.sample_subject(RNG, category="mug", accessory=False)
PERSON = world.sample_person(RNG)
FRAME = world.Frame(0.5, 0.5, 0.3)
SCENE = world.Scene(things=(MUG,), frames=(FRAME,))
IMAGE = np.zeros((64, 64, 3), np.uint8)
FLOATS: Any = IMAGE / 255

REFUSED: dict[str, tuple[Callable[[], object], str, str]] = {
    # What is asked for, what must be named as given, what must be named as the way out.
    "category": (lambda: world.sample_subject(RNG, category="sofa"), "sofa", "mug"),
    "empty category": (lambda: world.sample_subject(RNG, category=""), "''", "mug"),
    "style": (lambda: world.sample_scene(RNG, style="cubist"), "cubist", "line art"),
    "background": (lambda: world.sample_scene(RNG, background="moon"), "moon", "grass"),
    "no things": (lambda: world.sample_scene(RNG, count=0), "0 things", "1 and 4"),
    "five things": (lambda: world.sample_scene(RNG, count=5), "5 things", "1 and 4"),
    "empty list": (lambda: world.sample_scene(RNG, things=[]), "0 things", "1 and 4"),
    "long list": (lambda: world.sample_scene(RNG, things=[MUG] * 5), "5 things", "1 and 4"),
    "things and count": (lambda: world.sample_scene(RNG, things=[MUG], count=2), "=2", "Leave"),
    "things and people": (lambda: world.sample_scene(RNG, things=[MUG], people=True), "T", "Leave"),
    "frames of nothing": (lambda: world.sample_frames(RNG, []), "0 things", "1 and 4"),
    "empty scene": (lambda: world.Scene(things=(), frames=()), "0 things", "1 and 4"),
    "frameless": (lambda: world.Scene(things=(MUG,), frames=()), "0 frames", "one frame"),
    "scene's style": (lambda: replace(SCENE, style="cubist"), "cubist", "pastel"),
    "scene's colour": (lambda: replace(SCENE, background_colour="teal"), "teal", "cyan"),
    "scene's place": (lambda: replace(SCENE, background="moon"), "moon", "rug"),
    "flat frame": (lambda: replace(SCENE, frames=(replace(FRAME, size=0),)), "size=0", "shares"),
    "lost frame": (
        lambda: replace(SCENE, frames=(replace(FRAME, cx=float("nan")),)), "cx=nan", "shares"
    ),
    "size 60": (lambda: world.render(SCENE, 60), "60 x 60", "64"),
    "size 0": (lambda: world.render(SCENE, 0), "0 x 0", "8"),
    "size -8": (lambda: world.render(SCENE, -8), "-8 x -8", "8"),
    "portrait's size": (lambda: world.portrait(MUG, RNG, 3), "3 x 3", "8"),
    "face photo's size": (lambda: world.face_photo(PERSON.face, RNG, 100), "100 x 100", "96"),
    "colour": (lambda: world.Shade(name="teal"), "teal", "cyan"),
    "pattern": (lambda: world.Pattern(kind="stripes"), "stripes", "striped"),
    "material": (lambda: replace(MUG, material="glass"), "glass", "glossy"),
    "accessory": (lambda: world.Accessory(kind="tie", shade=MUG.base), "tie", "scarf"),
    "mark": (
        lambda: world.Mark(kind="moon", x=0, y=0, size=0.2, colour=(0, 0, 0)), "moon", "star"
    ),
    "edit's colour": (lambda: world.Edit(colour="teal"), "teal", "cyan"),
    "edit's pattern": (lambda: world.Edit(pattern=""), "''", "zigzag"),
    "edit's hat colour": (lambda: world.Edit(accessory_colour="teal"), "teal", "cyan"),
    "face": (lambda: replace(PERSON.face, tone=1.2), "tone=1.2", "Clip"),
    "face of nan": (lambda: replace(PERSON.face, jaw=float("nan")), "jaw=nan", "Clip"),
    "garment": (lambda: replace(PERSON, garment=MUG), "mug", "shirt"),
    "dressed garment": (
        lambda: replace(PERSON, garment=world.Edit(accessory="hat").apply(PERSON.garment)),
        "accessory of its own", "without accessory",
    ),
    "detail": (lambda: world.describe(MUG, detail="all"), "all", "full"),  # type: ignore[arg-type]
    "detail and rng": (lambda: world.caption(SCENE, detail="colour", rng=RNG), "rng", "Leave out"),
    "fault": (lambda: world.inject(SCENE, RNG, {"glare": 0.1}), "glare", "blur"),
    "rate": (lambda: world.inject(SCENE, RNG, {"blur": 1.5}), "1.5", "between 0 and 1"),
    "rate of nan": (lambda: world.inject(SCENE, RNG, {"blur": float("nan")}), "nan", "between"),
    "degradation": (lambda: world.degrade(IMAGE, "rust", RNG), "rust", "noise"),
    "float picture": (lambda: world.degrade(FLOATS, "blur", RNG), "float64", "0..255"),
    "gray picture": (lambda: world.degrade(IMAGE[..., 0], "blur", RNG), "(64, 64)", "RGB"),
    "tiny picture": (lambda: world.degrade(IMAGE[:8], "blur", RNG), "(8, 64, 3)", "RGB"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_three_parts(name: str) -> None:
    ask, given, todo = REFUSED[name]
    with pytest.raises(UserError) as caught:
        ask()
    error = caught.value
    assert given in error.given and todo in error.todo
    for part in (error.given, error.why, error.todo):
        assert part[0].isupper() and part.endswith(".") and len(part) < 250
    assert len({error.given, error.why, error.todo}) == 3
