"""Masked fill from text: what was there, what was asked for, what was painted, the truth."""

from diffusers import StableDiffusionXLInpaintPipeline

from insitu.evaluation.checkpoints import inpaint
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.overlays import hidden
from insitu.evaluation.gallery.page import DrawnBox, Group, Image, Section, Tile, Unit
from insitu.world.captions import article

MEANINGS = {
    "category": "CLIP names the filled box as the category that was asked for",
    "colour": "CLIP names the filled box's colour as it was asked for",
}


def section(bench: Bench) -> Section:
    pipeline = bench.load_diffusers(StableDiffusionXLInpaintPipeline, bench.models.inpaint)
    pipeline.set_progress_bar_config(disable=True)
    chosen = bench.settings.inpaint
    seed = bench.seed("inpaint")
    holes = inpaint.held_out(chosen.samples, seed, bench.settings.size)
    sampling = inpaint.Sampling(steps=chosen.steps, guidance_scale=chosen.guidance_scale)
    filled = inpaint.fill(pipeline, holes, sampling, seed=seed)
    # What the judge says of true pictures is the most that a painter can reach with it.
    ceiling = sum(right for right, _ in _verdicts(bench, holes, [hole.truth for hole in holes]))
    units = [
        _unit(hole, image, verdict)
        for hole, image, verdict in zip(holes, filled, _verdicts(bench, holes, filled), strict=True)
    ]
    group = Group(
        title="Held-out scenes",
        text="Right when CLIP sees category and colour of the text in the filled box; of the true"
        f" pictures it accepts {ceiling}.",
        units=tuple(units),
    )
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    return Section(
        key="sdxl-inpaint",
        title="Masked fill",
        text="A box is hidden, and a text asks for another subject in it: the first held-out"
        f" scenes. {chosen.steps} steps, guidance {chosen.guidance_scale:g}.",
        groups=(group,),
        facts=(
            facts(
                "sdxl-inpaint",
                bench.models.inpaint,
                *parts,
                meanings=MEANINGS,
                model_class=type(pipeline).__name__,
            ),
        ),
    )


def _verdicts(
    bench: Bench, holes: list[inpaint.Hole], images: list[Image]
) -> list[tuple[bool, str]]:
    """Of each picture: whether its box shows what was asked for, and what CLIP sees there."""
    boxes = [hole.box_xyxy01 for hole in holes]
    wanted = [(hole.subject.category, hole.subject.colour) for hole in holes]
    categories = bench.judges.categories(images, boxes)
    colours = bench.judges.colours(images, boxes, [category for category, _ in wanted])
    return [
        (seen == asked, f"sees {article(f'{seen[1]} {seen[0]}')}")
        for seen, asked in zip(zip(categories, colours, strict=True), wanted, strict=True)
    ]


def _unit(hole: inpaint.Hole, filled: Image, verdict: tuple[bool, str]) -> Unit:
    drawn = (DrawnBox(box_xyxy01=hole.box_xyxy01, dashed=True),)
    given = hidden(hole.image, hole.mask > 0)
    right, seen = verdict
    return Unit(
        tiles=(
            Tile(image=hole.image, label="source", boxes=drawn, alt="the source"),
            Tile(image=given, label="given", alt="the source with the box hidden"),
            Tile(image=filled, label="filled", alt=f"filled: {hole.text}"),
            Tile(image=hole.truth, label="truth", alt=f"truth: {hole.text}"),
        ),
        text=hole.text,
        right=right,
        note=seen,
    )
