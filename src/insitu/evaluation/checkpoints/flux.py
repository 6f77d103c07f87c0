"""Held-out figures of a text-to-image checkpoint (`FluxPipeline`), as two judges see it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.checkpoints import Figure, proportion
from insitu.evaluation.checkpoints.judging import Judges
from insitu.world.captions import article

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to call the pipeline; `size` in pixels."""

    steps: int = 25
    guidance_scale: float = 3.5
    true_cfg_scale: float = 1.0
    max_sequence_length: int = 48
    size: int = 64


def figures(
    path: str | Path,
    judges: Judges,
    *,
    sampling: Sampling = Sampling(),
    count: int = 200,
    seed: int = 0,
) -> dict[str, Figure]:
    """Judge `count` pictures of each kind of held-out caption, one picture a caption.

    Returns:
        `category` and `colour` with one subject (colour within the asked category), `two subjects`
        (both detected), `face` (a face detected in a person's picture), the same four of the
        world's own pictures ("... of true pictures"): the judges' ceiling, and two floors of what
        they find in true pictures where it is not: two other subjects, a face.
    """
    pipeline = FluxPipeline.from_pretrained(path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    result: dict[str, Figure] = {}
    asked = held_out(count, seed)
    for kind, scenes in asked.items():
        captions = [world.caption(scene, detail="pattern") for scene in scenes]
        drawn = sample(pipeline, captions, sampling, seed=seed)
        true = [world.render(scene, sampling.size).image for scene in scenes]
        for suffix, images in (("", drawn), (" of true pictures", true)):
            for name, hits in _JUDGE[kind](judges, images, scenes).items():
                result[name + suffix] = proportion(hits)
    return result | _floors(judges, asked["two"], sampling.size)


def _floors(judges: Judges, scenes: Sequence[world.Scene], size: int) -> dict[str, Figure]:
    """Two subjects that are not in the picture, and a face that is not."""
    images = [world.render(scene, size).image for scene in scenes]
    absent = []
    for scene in scenes:
        shown = {thing.category for thing in scene.things if isinstance(thing, world.Subject)}
        others = [category for category in world.CATEGORIES if category not in shown]
        rng = world.rng_for("held-out", "flux-absent", *sorted(shown))
        absent.append([article(others[k]) for k in rng.permutation(len(others))[:2]])
    both = [all(scores) for scores in judges.present(images, absent)]
    faces = [score > 0 for (score,) in judges.present(images, [["a face"]] * len(images))]
    return {"two absent subjects": proportion(both), "absent face": proportion(faces)}


def held_out(count: int, seed: int) -> dict[str, list[world.Scene]]:
    """Photo scenes of one subject, of two subjects of different categories, of one person."""
    kinds: dict[str, list[world.Scene]] = {"one": [], "two": [], "person": []}
    for i in range(count):
        rng = world.rng_for("held-out", "flux", seed, i)
        first, second = rng.permutation(len(world.CATEGORIES))[:2]
        pair = [world.sample_subject(rng, category=world.CATEGORIES[k]) for k in (first, second)]
        kinds["one"].append(world.sample_scene(rng, things=[pair[0]], style="photo"))
        kinds["two"].append(world.sample_scene(rng, things=list(pair), style="photo"))
        kinds["person"].append(world.sample_scene(rng, count=1, people=True, style="photo"))
    return kinds


@torch.no_grad()
def sample(
    pipeline: FluxPipeline, captions: Sequence[str], sampling: Sampling, *, seed: int
) -> list[NDArray[np.uint8]]:
    """One picture a caption, uint8 [H, W, 3]; picture i depends on (seed, i) and its caption."""
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(captions), BATCH):
        part = list(captions[start : start + BATCH])
        generators = [
            torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(part))
        ]
        drawn = pipeline(
            part,
            negative_prompt=[""] * len(part) if sampling.true_cfg_scale > 1 else None,
            true_cfg_scale=sampling.true_cfg_scale,
            guidance_scale=sampling.guidance_scale,
            num_inference_steps=sampling.steps,
            max_sequence_length=sampling.max_sequence_length,
            height=sampling.size,
            width=sampling.size,
            generator=generators,
            output_type="np",
        ).images
        images += list(np.rint(drawn * 255).astype(np.uint8))
    return images


def _one(
    judges: Judges, images: Sequence[NDArray[np.uint8]], scenes: Sequence[world.Scene]
) -> dict[str, list[bool]]:
    wanted = [
        thing for scene in scenes for thing in scene.things if isinstance(thing, world.Subject)
    ]
    boxes = judges.main_boxes(images)
    categories = judges.categories(images, boxes)
    colours = judges.colours(images, boxes, [subject.category for subject in wanted])
    return {
        "category": [a == b.category for a, b in zip(categories, wanted, strict=True)],
        "colour": [a == b.colour for a, b in zip(colours, wanted, strict=True)],
    }


def _two(
    judges: Judges, images: Sequence[NDArray[np.uint8]], scenes: Sequence[world.Scene]
) -> dict[str, list[bool]]:
    queries = [[article(thing.category) for thing in scene.things] for scene in scenes]
    found = judges.present(images, queries)
    return {"two subjects": [all(scores) for scores in found]}


def _person(
    judges: Judges, images: Sequence[NDArray[np.uint8]], scenes: Sequence[world.Scene]
) -> dict[str, list[bool]]:
    found = judges.present(images, [["a face"]] * len(images))
    return {"face": [score > 0 for (score,) in found]}


_JUDGE = {"one": _one, "two": _two, "person": _person}
