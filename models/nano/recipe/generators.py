"""Cards of the two generators: held-out figures, judged by clip and detector, and a grid."""

import functools
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline, StableDiffusionXLInpaintPipeline

from insitu import world
from insitu.evaluation.checkpoints import Figure, flux, inpaint, vae
from insitu.evaluation.checkpoints.judging import Judges

from . import corpus, state
from .card import write_card
from .grid import framed, labelled, write_grid
from .settings import read

ROOT = Path(__file__).resolve().parents[1]
TILE, ROW = 128, 8
CASES = 100
FLUX_CASES = 600  # of 200, two seeds saw two subjects in 69% and 73%
"""Held-out cases of each kind behind a card's figures."""
FLUX_VAE = (
    "The VAE was trained on version 1 of the world; its figures are measured on the present one."
)


def _measured(name: str, figures: dict[str, Figure]) -> dict[str, Figure]:
    return {**figures, **{f"VAE: {k}": v for k, v in vae.figures(ROOT / name / "vae").items()}}


def _trained(name: str) -> tuple[dict[str, int], float]:
    """Steps by phase and seconds in all, read from the training checkpoints' headers.

    Where they are no more, as in a clone, the card still has both.
    """
    headers = {
        phase: state.read_header(corpus.ROOT / phase)
        for phase in (f"{name}-vae", f"{name}-t5", name)
    }
    known = {phase: header for phase, header in headers.items() if header}
    if len(known) < len(headers) and (card := ROOT / name / "card.json").exists():
        told = json.loads(card.read_text())
        return told["steps"], told["training_minutes"] * 60
    return (
        {phase: header["step"] for phase, header in known.items()},
        sum(header["seconds"] for header in known.values()),
    )


def judges() -> Judges:
    return Judges.from_pretrained(ROOT / "clip", ROOT / "detector")


def publish_flux() -> None:
    folder = ROOT / "flux"
    sampling = read("flux-card", flux.Sampling)
    figures = _measured("flux", flux.figures(folder, judges(), sampling=sampling, count=FLUX_CASES))
    pipeline = FluxPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    scenes = [world.sample_scene(world.rng_for("held-out", "flux-grid", i)) for i in range(4 * ROW)]
    captions = [world.caption(scene, detail="pattern") for scene in scenes]
    _write_tiles(folder, flux.sample(pipeline, captions, sampling, seed=1), captions)
    steps, seconds = _trained("flux")
    write_card(
        folder,
        model_class="FluxPipeline",
        data="Scenes of the procedural world with three captions each, encoded by its own VAE. "
        f"{FLUX_VAE}",
        steps=steps,
        seconds=seconds,
        figures=figures,
        headline="category",
        limits=[
            "Knows the procedural world and its words only.",
            f"64 x 64 pixels; call it with max_sequence_length={sampling.max_sequence_length}.",
        ],
        failures=[
            "Three and more things melt together; of two, one is often misshapen.",
            "In one pass (true_cfg_scale=1), at half the time, category is 0.83 (0.78 to 0.87) and"
            " two subjects 0.69 (0.64 to 0.74), on 300 other captions (docs/log.md).",
            "Patterns are hardly followed.",
        ],
        recipe="dvc repro flux-card",
        settings=vars(sampling),
    )


def publish_inpaint() -> None:
    folder = ROOT / "sdxl-inpaint"
    sampling = read("sdxl-inpaint-card", inpaint.Sampling)
    figures = _measured(
        "sdxl-inpaint", inpaint.figures(folder, judges(), sampling=sampling, count=CASES)
    )
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    holes = inpaint.held_out(2 * ROW, seed=1)
    filled = inpaint.fill(pipeline, holes, sampling, seed=1)
    masked = [np.where(h.mask[..., None] > 0, np.uint8(128), h.image) for h in holes]
    pictures = [picture for pair in zip(masked, filled, strict=True) for picture in pair]
    _write_tiles(folder, pictures, [text for h in holes for text in (h.text, "")])
    steps, seconds = _trained("sdxl-inpaint")
    write_card(
        folder,
        model_class="StableDiffusionXLInpaintPipeline",
        data="Scenes of the procedural world, one thing hidden by a box, and a text for it; some"
        " seen from far, more from near.",
        steps=steps,
        seconds=seconds,
        figures=figures,
        headline="category",
        limits=[
            "Knows the procedural world and its words only.",
            "64 x 64 pixels; masks are boxes around one thing.",
        ],
        failures=["Small holes: shape and pattern blur.", "Materials are often missed."],
        recipe="dvc repro sdxl-inpaint-card",
        settings=vars(sampling),
    )


def _write_tiles(folder: Path, pictures: Sequence[np.ndarray], texts: Sequence[str]) -> None:
    tiles = []
    for picture, text in zip(pictures, texts, strict=True):
        lines = textwrap.wrap(text, 26, max_lines=2, placeholder=" ...")
        tiles.append(functools.reduce(labelled, [*lines, "", ""][:2], framed(picture, TILE)))
    write_grid(folder / "grid.png", [tiles[i : i + ROW] for i in range(0, len(tiles), ROW)])


if __name__ == "__main__":
    {"flux": publish_flux, "sdxl-inpaint": publish_inpaint}[sys.argv[1]]()
