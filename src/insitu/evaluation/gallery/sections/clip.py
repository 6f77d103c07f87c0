"""Image and text in one space: naming things without training for it, and an eye for quality."""

from collections.abc import Sequence

from insitu import world
from insitu.evaluation.checkpoints.clip import ATTRIBUTES, Shot, held_out_shots
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.page import Group, Image, Line, Section, Tile, Unit
from insitu.perception.clip import ClipScorer
from insitu.world.captions import article

TOP = 3
MEANINGS = {
    "category": "the right one of 18 categories",
    "caption": "a scene's own caption out of 64",
    "aesthetic_auc": "a clean picture outranks a degraded one",
}


def section(bench: Bench) -> Section:
    groups = [_readings(bench)]
    if bench.clip.head is not None:
        groups.append(_quality(bench))
    missing = "" if bench.clip.head else " This checkpoint has no aesthetic head."
    return Section(
        key="clip",
        title="Image and text",
        text="The same model judges the pictures above." + missing,
        groups=tuple(groups),
        facts=(facts("clip", bench.models.clip, bench.clip.model, meanings=MEANINGS),),
    )


def _readings(bench: Bench) -> Group:
    shots = held_out_shots(bench.settings.readings, bench.seed("clip"))
    questions = {"category": world.CATEGORIES, **ATTRIBUTES}
    hits = dict.fromkeys(questions, 0)
    units = []
    for shot in shots:
        lines: list[Line] = []
        for attribute, values in questions.items():
            answers = _reading(bench.clip, shot, attribute, values)
            hits[attribute] += bool(answers[0].right)
            lines += [Line(text=attribute, heading=True), *answers]
        alt = world.describe(shot.subject)
        units.append(
            Unit(tiles=(Tile(image=shot.image, label=shot.source, alt=alt),), lines=tuple(lines))
        )
    counts = ", ".join(f"{attribute} {count}" for attribute, count in hits.items())
    return Group(
        title="Zero-shot answers",
        text="Portraits and crops out of scenes, unseen in training, with the three likeliest"
        " answers to each question and their probabilities; colour, pattern and material are"
        f" asked with the category given. First answers right, of {len(shots)}: {counts}.",
        units=tuple(units),
        tile_px=192,
    )


def _reading(scorer: ClipScorer, shot: Shot, attribute: str, values: Sequence[str]) -> list[Line]:
    """The likeliest values, and the true one if it is not among them."""
    if attribute == "category":
        truth, prompts = shot.subject.category, [article(value) for value in values]
    else:
        truth = shot.value(attribute)
        prompts = [article(f"{value} {shot.subject.category}") for value in values]
    chances = scorer.zero_shot([shot.image], prompts)[0].tolist()
    order = sorted(range(len(values)), key=lambda i: -chances[i])
    shown = order[:TOP]
    if values.index(truth) not in shown:
        shown.append(values.index(truth))
    lines = []
    for place, i in enumerate(shown):
        right = True if values[i] == truth else False if place == 0 else None
        lines.append(Line(text=values[i], value=f"{chances[i]:.0%}", share=chances[i], right=right))
    return lines


def _quality(bench: Bench) -> Group:
    kinds = [
        world.DEGRADATIONS[i % len(world.DEGRADATIONS)] for i in range(bench.settings.quality_pairs)
    ]
    clean = [_picture(bench, i) for i in range(len(kinds))]
    spoilt = [
        world.degrade(image, kind, bench.rng("degrade", i))
        for i, (image, kind) in enumerate(zip(clean, kinds, strict=True))
    ]
    scores = bench.clip.aesthetic([*clean, *spoilt]).float().view(2, -1)
    units = [
        Unit(
            tiles=(
                Tile(image=clean[i], label=f"clean {scores[0, i]:+.1f}", alt="a clean picture"),
                Tile(image=spoilt[i], label=f"{kind} {scores[1, i]:+.1f}", alt=f"degraded: {kind}"),
            ),
            right=better,
            note=f"scores the {'clean' if better else 'degraded'} picture higher",
        )
        for i, (kind, better) in enumerate(
            zip(kinds, (scores[0] > scores[1]).tolist(), strict=True)
        )
    ]
    return Group(
        title="Aesthetic scores",
        text="A head on the image embedding; the clean picture should score higher.",
        units=tuple(units),
        tile_px=192,
    )


def _picture(bench: Bench, i: int) -> Image:
    """A scene and a portrait in turn."""
    rng = bench.rng("quality", i)
    if i % 2:
        return world.portrait(world.sample_subject(rng), rng, bench.settings.size).image
    return world.render(world.sample_scene(rng, style="photo"), bench.settings.size).image
