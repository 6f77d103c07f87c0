"""Text to image: pictures for held-out captions, and what the judges see in them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from diffusers import FluxPipeline

from insitu import world
from insitu.evaluation.checkpoints import flux
from insitu.evaluation.checkpoints.judging import Judges
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.page import Group, Image, Section, Tile, Unit
from insitu.world.captions import article

Verdicts = list[tuple[bool, str]]
"""Of each picture: whether it is right, and what the judge saw."""

MEANINGS = {
    "category": "one subject: CLIP names the category that was asked for",
    "colour": "one subject: CLIP names the colour that was asked for",
    "two subjects": "two subjects: the detector finds both",
    "face": "one person: the detector finds a face",
}


def section(bench: Bench) -> Section:
    pipeline = bench.load_diffusers(FluxPipeline, bench.models.flux)
    pipeline.set_progress_bar_config(disable=True)
    groups = []
    for kind, scenes in _scenes(bench).items():
        captions = [world.caption(scene, detail="pattern") for scene in scenes]
        images = flux.sample(pipeline, captions, _sampling(bench), seed=bench.seed("flux", kind))
        title, text, judge = _KINDS[kind]
        verdicts = judge(bench.judges, images, scenes)
        # What the judge says of true pictures is the most that a painter can reach with it.
        truth = [world.render(scene, bench.settings.size).image for scene in scenes]
        ceiling = sum(right for right, _ in judge(bench.judges, truth, scenes))
        text += f" Of the world's own pictures of these scenes the same judge accepts {ceiling}."
        units = [
            Unit(tiles=(Tile(image=image),), text=caption, right=right, note=seen)
            for image, caption, (right, seen) in zip(images, captions, verdicts, strict=True)
        ]
        groups.append(Group(title=title, text=text, units=tuple(units), tile_px=192))
    parts = (pipeline.transformer, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    return Section(
        key="flux",
        title="Text to image",
        text="The first held-out captions of each kind, one picture each. Two models that never saw"
        f" the painter's pictures in training judge them; they err at times. {_how(bench)}",
        groups=tuple(groups),
        facts=(
            facts(
                "flux",
                bench.models.flux,
                *parts,
                meanings=MEANINGS,
                model_class=type(pipeline).__name__,
            ),
        ),
    )


def _scenes(bench: Bench) -> dict[str, list[world.Scene]]:
    """Held-out scenes by kind; those of the last kind are in every style but photo, in turn."""
    count = bench.settings.flux.samples
    scenes = flux.held_out(count, bench.seed("flux"))
    styles = [style for style in world.STYLES if style != "photo"]
    scenes["style"] = [
        replace(
            world.sample_scene(bench.rng("flux", "style", i), count=1, people=False),
            style=styles[i % len(styles)],
        )
        for i in range(count)
    ]
    return scenes


def _how(bench: Bench) -> str:
    chosen = bench.settings.flux
    return (
        f"{chosen.steps} steps, guidance {chosen.guidance_scale:g}, classifier-free guidance"
        f" {chosen.true_cfg_scale:g}."
    )


def _sampling(bench: Bench) -> flux.Sampling:
    chosen = bench.settings.flux
    return flux.Sampling(
        steps=chosen.steps,
        guidance_scale=chosen.guidance_scale,
        true_cfg_scale=chosen.true_cfg_scale,
        max_sequence_length=chosen.max_sequence_length,
        size=bench.settings.size,
    )


def _one(judges: Judges, images: Sequence[Image], scenes: Sequence[world.Scene]) -> Verdicts:
    wanted = [
        thing for scene in scenes for thing in scene.things if isinstance(thing, world.Subject)
    ]
    boxes = judges.main_boxes(images)
    categories = judges.categories(images, boxes)
    colours = judges.colours(images, boxes, [subject.category for subject in wanted])
    return [
        (
            (category, colour) == (subject.category, subject.colour),
            f"sees {article(f'{colour} {category}')}",
        )
        for category, colour, subject in zip(categories, colours, wanted, strict=True)
    ]


def _two(judges: Judges, images: Sequence[Image], scenes: Sequence[world.Scene]) -> Verdicts:
    queries = [[article(thing.category) for thing in scene.things] for scene in scenes]
    scores = judges.present(images, queries)
    return [(all(found), _found(own, found)) for own, found in zip(queries, scores, strict=True)]


def _person(judges: Judges, images: Sequence[Image], scenes: Sequence[world.Scene]) -> Verdicts:
    scores = judges.present(images, [["a face"]] * len(images))
    return [(all(score), _found(["a face"], score)) for score in scores]


def _style(judges: Judges, images: Sequence[Image], scenes: Sequence[world.Scene]) -> Verdicts:
    verdicts = []
    for image, scene in zip(images, scenes, strict=True):
        texts = [
            world.caption(replace(scene, style=style), detail="category") for style in world.STYLES
        ]
        seen = list(world.STYLES)[int(judges.clip.zero_shot([image], texts).argmax())]
        verdicts.append((seen == scene.style, f"sees the style {seen}"))
    return verdicts


def _found(queries: Sequence[str], scores: Sequence[float]) -> str:
    found = [f"{q} ({s:.2f})" for q, s in zip(queries, scores, strict=True) if s > 0]
    return f"finds {' and '.join(found)}" if found else f"does not find {' or '.join(queries)}"


_KINDS: Final[
    dict[str, tuple[str, str, Callable[[Judges, list[Image], list[world.Scene]], Verdicts]]]
] = {
    "one": ("One subject", "Right when CLIP sees the category and the colour.", _one),
    "two": ("Two subjects", "Right when the detector finds both.", _two),
    "person": ("A person", "Right when the detector finds a face.", _person),
    "style": ("Styles", "Right when CLIP sees the style among the four.", _style),
}
