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
    pipeline = bench.load_diffusers(StableDiffusionXLInpaintPipeline, bench.models.sdxl_inpaint)
    pipeline.set_progress_bar_config(disable=True)
    chosen = bench.settings.inpaint
    seed = bench.seed("inpaint")
    holes = inpaint.held_out(chosen.samples, seed, bench.settings.size)
    sampling = inpaint.Sampling(steps=chosen.steps, guidance_scale=chosen.guidance_scale)
    filled = inpaint.fill(pipeline, holes, sampling, seed=seed)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    return Section(
        key="sdxl-inpaint",
        title="Masked fill",
        text="A box is hidden, and a text asks for another subject in it: the first held-out"
        " scenes. Right when CLIP sees category and colour of the text in the filled box.",
        groups=(Group(title="Held-out scenes", units=_units(bench, holes, filled), tile_px=128),),
        facts=(
            facts(
                "sdxl-inpaint",
                bench.models.sdxl_inpaint,
                *parts,
                meanings=MEANINGS,
                model_class=type(pipeline).__name__,
            ),
        ),
    )


def _units(bench: Bench, holes: list[inpaint.Hole], filled: list[Image]) -> tuple[Unit, ...]:
    boxes = [hole.box_xyxy01 for hole in holes]
    categories = bench.judges.categories(filled, boxes)
    colours = bench.judges.colours(filled, boxes, [hole.subject.category for hole in holes])
    units = []
    for hole, image, category, colour in zip(holes, filled, categories, colours, strict=True):
        drawn = (DrawnBox(box_xyxy01=hole.box_xyxy01, dashed=True),)
        source = hidden(hole.image, hole.mask > 0)
        units.append(
            Unit(
                tiles=(
                    Tile(image=hole.image, label="source", boxes=drawn, alt="the source"),
                    Tile(image=source, label="given", alt="the source with the box hidden"),
                    Tile(image=image, label="filled", alt=f"filled: {hole.text}"),
                    Tile(image=hole.truth, label="truth", alt=f"truth: {hole.text}"),
                ),
                text=hole.text,
                right=(category, colour) == (hole.subject.category, hole.subject.colour),
                note=f"sees {article(f'{colour} {category}')}",
            )
        )
    return tuple(units)
