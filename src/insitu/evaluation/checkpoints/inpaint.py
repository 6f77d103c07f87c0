"""Held-out figures of a text-guided inpainting checkpoint (`StableDiffusionXLInpaintPipeline`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLInpaintPipeline
from numpy.typing import NDArray
from PIL import Image as Pil

from insitu import world
from insitu.evaluation.checkpoints import Figure, proportion
from insitu.evaluation.checkpoints.judging import Judges
from insitu.perception.detector import Box

BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to call the pipeline."""

    steps: int = 25
    guidance_scale: float = 4.0


@dataclass(frozen=True, kw_only=True)
class Hole:
    """A picture, the box to fill, and the subject that the text asks for."""

    image: NDArray[np.uint8]
    box_xyxy01: Box
    mask: NDArray[np.uint8]
    """uint8 [H, W], 255 = fill."""
    subject: world.Subject
    truth: NDArray[np.uint8]

    @property
    def text(self) -> str:
        return world.describe(self.subject, detail="pattern")


def figures(
    path: str | Path,
    judges: Judges,
    *,
    sampling: Sampling = Sampling(),
    count: int = 200,
    seed: int = 0,
) -> dict[str, Figure]:
    """Fill `count` held-out holes and judge each box by CLIP.

    Returns:
        `category` (18 choices) and `colour` (12, within the asked category) of the filled box, and
        of true pictures of the asked subjects in those boxes: the judge's ceiling.
    """
    pipeline = StableDiffusionXLInpaintPipeline.from_pretrained(path, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    holes = held_out(count, seed)
    result: dict[str, Figure] = {}
    filled = fill(pipeline, holes, sampling, seed=seed)
    for suffix, images in (("", filled), (" of true pictures", [h.truth for h in holes])):
        boxes = [hole.box_xyxy01 for hole in holes]
        wanted = [hole.subject for hole in holes]
        categories = judges.categories(images, boxes)
        colours = judges.colours(images, boxes, [s.category for s in wanted])
        result["category" + suffix] = proportion(
            a == s.category for a, s in zip(categories, wanted, strict=True)
        )
        result["colour" + suffix] = proportion(
            a == s.colour for a, s in zip(colours, wanted, strict=True)
        )
    return result


def held_out(count: int, seed: int, size: int = 64) -> list[Hole]:
    """Scenes whose one thing is asked to become another subject, in the same place."""
    return [_hole(world.rng_for("held-out", "inpaint", seed, i), size) for i in range(count)]


def _hole(rng: np.random.Generator, size: int) -> Hole:
    before, wanted = world.sample_subject(rng), world.sample_subject(rng)
    scene = world.sample_scene(rng, things=[wanted], style="photo")
    truth = world.render(scene, size)
    other = world.Scene(**(vars(scene) | {"things": (before,)}))
    box = grown(truth.things[0].box_xyxy01, 0.15)
    mask = np.zeros((size, size), np.uint8)
    x0, y0, x1, y1 = (round(v * size) for v in box)
    mask[y0:y1, x0:x1] = 255
    # Nothing of the old subject is left to copy: its own box is part of the hole.
    old = world.render(other, size)
    image = np.where(mask[..., None] > 0, old.image, truth.image)
    return Hole(image=image, box_xyxy01=box, mask=mask, subject=wanted, truth=truth.image)


def grown(box: Box, share: float) -> Box:
    """The box with each side `share` longer, clipped to the picture."""
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * share / 2, (y1 - y0) * share / 2
    return max(0.0, x0 - dx), max(0.0, y0 - dy), min(1.0, x1 + dx), min(1.0, y1 + dy)


@torch.no_grad()
def fill(
    pipeline: StableDiffusionXLInpaintPipeline,
    holes: Sequence[Hole],
    sampling: Sampling,
    *,
    seed: int,
) -> list[NDArray[np.uint8]]:
    """Each hole filled, uint8 [H, W, 3]; picture i depends on (seed, i) and its hole."""
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(holes), BATCH):
        part = holes[start : start + BATCH]
        height, width = part[0].mask.shape
        drawn = pipeline(
            prompt=[hole.text for hole in part],
            negative_prompt=[""] * len(part),
            image=[Pil.fromarray(hole.image) for hole in part],
            mask_image=[Pil.fromarray(hole.mask) for hole in part],
            height=height,
            width=width,
            strength=1.0,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            generator=[
                torch.Generator().manual_seed(seed * 100_003 + start + i) for i in range(len(part))
            ],
            output_type="np",
        ).images
        images += list(np.rint(drawn * 255).astype(np.uint8))
    return images
