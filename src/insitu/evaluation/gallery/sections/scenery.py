"""The world itself: scenes, styles, identities, edits, faults, and the truth kept of each."""

from dataclasses import replace

import numpy as np

from insitu import world
from insitu.evaluation.checkpoints.dino import twin
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.overlays import dots, tinted
from insitu.evaluation.gallery.page import DrawnBox, Group, Image, Line, Section, Tile, Unit

TILE = 192  # pixels that a picture is shown in
SHEETS = (("guitar", False), ("rabbit", True))
"""Subjects on identity sheets: a category, and whether it wears something."""
EDITS = (
    world.Edit(colour="cyan"),
    world.Edit(pattern="dotted"),
    world.Edit(colour="purple", pattern="checked"),
    world.Edit(material="metallic"),
    world.Edit(accessory="hat", accessory_colour="red"),
    world.Edit(colour="yellow", accessory="scarf", accessory_colour="blue"),
)


def section(bench: Bench) -> Section:
    return Section(
        key="world",
        title="The world",
        text="Everything is learned from and measured on a small procedural world. It draws"
        f" {len(world.CATEGORIES)} categories of subjects and people with exact ground truth,"
        " and an identity has details that no caption can carry.",
        groups=(
            *(_style(bench, style) for style in world.STYLES),
            *(_sheet(bench, category, worn) for category, worn in SHEETS),
            _person_sheet(bench),
            _twins(bench),
            _edits(bench),
            _faults(bench),
            _truth(bench),
        ),
    )


def banner(bench: Bench) -> Group:
    """The scenes that open the page."""
    size = bench.settings.scene_size
    scenes = [
        world.sample_scene(bench.rng("banner", i), style="photo" if i % 5 else None)
        for i in range(bench.settings.scenes)
    ]
    units = (_shown(world.render(scene, size).image, world.caption(scene)) for scene in scenes)
    return Group(units=tuple(units), tile_px=size, banner=True)


def _shown(image: Image, alt: str, text: str = "") -> Unit:
    return Unit(tiles=(Tile(image=image, alt=alt),), text=text)


def _style(bench: Bench, style: str) -> Group:
    """The same scenes in every style."""
    scenes = [
        replace(world.sample_scene(bench.rng("style", i), style="photo"), style=style)
        for i in range(bench.settings.examples)
    ]
    size = bench.settings.scene_size
    return Group(
        title=f"Style: {style}",
        units=tuple(
            _shown(world.render(s, size).image, alt=world.caption(s), text=world.caption(s))
            for s in scenes
        ),
        tile_px=TILE,
    )


def _sheet(bench: Bench, category: str, worn: bool) -> Group:
    """One identity alone and in scenes, in turn."""
    subject = world.sample_subject(bench.rng("sheet", category), category=category, accessory=worn)
    return Group(
        title=f"One identity: {world.describe(subject)}",
        text="Pose, scale, light and surroundings vary; shape, shades, pattern and marks stay.",
        units=_views(bench, subject, category),
        tile_px=TILE,
    )


def _person_sheet(bench: Bench) -> Group:
    person = world.sample_person(bench.rng("sheet", "person"))
    return Group(
        title=f"One identity: {world.describe(person)}",
        text="Expression, pose, light and surroundings vary; the face stays.",
        units=_views(bench, person, "person"),
        tile_px=TILE,
    )


def _views(bench: Bench, thing: world.Thing, key: str) -> tuple[Unit, ...]:
    units = []
    for i in range(bench.settings.examples):
        rng = bench.rng("sheet", key, "view", i)
        if i % 2 == 0:
            drawn = world.portrait(thing, rng, bench.settings.scene_size)
        else:
            if isinstance(thing, world.Person):
                thing = replace(thing, expression=world.sample_expression(rng))
            scene = world.sample_scene(rng, things=[thing], style="photo")
            drawn = world.render(scene, bench.settings.scene_size)
        units.append(_shown(drawn.image, world.describe(thing)))
    return tuple(units)


def _twins(bench: Bench) -> Group:
    units = []
    for i in range(bench.settings.examples):
        rng = bench.rng("twins", i)
        subject = world.sample_subject(rng)
        words = world.describe(subject)
        pair = [
            world.portrait(one, rng, bench.settings.scene_size)
            for one in (subject, twin(subject, rng))
        ]
        units.append(Unit(tiles=tuple(Tile(image=d.image, alt=words) for d in pair), text=words))
    return Group(
        title="The same words, two identities",
        text="What only a reference picture can tell apart.",
        units=tuple(units),
        tile_px=TILE,
    )


def _edits(bench: Bench) -> Group:
    """Before and after in the same pose and light."""
    units = []
    for i, edit in enumerate(EDITS[: bench.settings.examples]):
        before = world.sample_subject(bench.rng("edit", i), accessory=False)
        pair = [
            world.portrait(one, bench.rng("edit", i, "view"), bench.settings.scene_size)
            for one in (before, edit.apply(before))
        ]
        alts = (world.describe(before), world.describe(edit.apply(before)))
        units.append(
            Unit(
                tiles=tuple(Tile(image=d.image, alt=a) for d, a in zip(pair, alts, strict=True)),
                text=world.describe_edit(edit, before.category),
            )
        )
    return Group(title="Edits of an identity, in words", units=tuple(units), tile_px=TILE)


def _faults(bench: Bench) -> Group:
    """Each kind once: the scene as intended, and with the fault."""
    units = []
    for kind in world.FAULTS:
        rng = bench.rng("fault", kind)
        meant = world.sample_scene(rng, count=2, people=False, style="photo")
        spoilt, faults = world.inject(meant, rng, {kind: 1.0})
        assert {fault.kind for fault in faults} == {kind}
        size = bench.settings.scene_size
        tiles = (
            Tile(image=world.render(meant, size).image, label="meant", alt=world.caption(meant)),
            Tile(image=world.render(spoilt, size).image, label="drawn", alt=f"fault: {kind}"),
        )
        units.append(Unit(tiles=tiles, text=kind))
    return Group(
        title="Faults on demand",
        text="Drawn at known rates, so that a filter's precision and recall can be measured.",
        units=tuple(units),
        tile_px=TILE,
    )


def _truth(bench: Bench) -> Group:
    """Boxes, masks and landmarks over scenes of two to four things, people among them."""
    units = []
    for i in range(bench.settings.examples):
        rng = bench.rng("truth", i)
        scene = world.sample_scene(rng, count=2 + i % 3, people=bool(i % 2), style="photo")
        units.append(_with_truth(world.render(scene, bench.settings.scene_size), scene))
    return Group(
        title="The truth beside every picture",
        text="Boxes and masks of what is visible, and five landmarks of each face.",
        units=tuple(units),
        tile_px=TILE,
    )


def _with_truth(drawn: world.Rendering, scene: world.Scene) -> Unit:
    masks: list[np.ndarray] = [seen.mask for seen in drawn.things]
    boxes = tuple(
        DrawnBox(box_xyxy01=seen.box_xyxy01, colour=colour)
        for colour, seen in enumerate(drawn.things)
    )
    points = tuple(
        point
        for colour, seen in enumerate(drawn.things)
        if seen.landmarks_xy01 is not None
        for point in dots(seen.landmarks_xy01, colour=colour, filled=True)
    )
    text = world.caption(scene)
    return Unit(
        tiles=(
            Tile(image=drawn.image, alt=text, boxes=boxes, points=points),
            Tile(image=tinted(drawn.image, masks), alt="the masks of its things"),
        ),
        lines=tuple(
            Line(
                text=world.describe(seen.thing), colour=colour, value=f"{seen.visible:.0%} visible"
            )
            for colour, seen in enumerate(drawn.things)
        ),
    )
