"""Scenes as the generators train on them: latents, boxes and captions, encoded once."""

import os
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from insitu import world
from insitu.digest import weights_digest

from . import corpus, pictures
from .vae import to_pixels

CAPTIONS = 3
TEXT = "S400"
MAX_THINGS = 4


class Pictures(Protocol):
    """A sequence of uint8 pictures [N, H, W, 3], sliced by rows."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]: ...


def scene(index: int) -> dict[str, np.ndarray]:
    """One scene: image, boxes [4, 4] (xyxy01, zeros beyond its things), captions."""
    rng = world.rng_for("generator", index)
    sampled = world.sample_scene(rng)
    rendered = world.render(sampled, pictures.SIZE)
    boxes = np.zeros((MAX_THINGS, 4), np.float32)
    for row, thing in zip(boxes, rendered.things, strict=False):
        row[:] = thing.box_xyxy01
    detail = [world.pick(rng, world.DETAILS) for _ in rendered.things]
    regions = [
        world.describe(thing.thing, detail=level, colours=sampled.style != "line art")
        for thing, level in zip(rendered.things, detail, strict=True)
    ] + [""] * (MAX_THINGS - len(rendered.things))
    captions = [world.caption(sampled, rng=rng) for _ in range(CAPTIONS)]
    return {
        "image": rendered.image,
        "boxes": boxes,
        "captions": np.array(captions, TEXT),
        "regions": np.array(regions, TEXT),
    }


def scenes(count: int, workers: int = 2) -> dict[str, np.memmap]:
    return corpus.build("scenes", count, scene, workers=workers)


@torch.no_grad()
def encoded(
    vae_folder: Path, images: Pictures, size: int, *, name: str = "latents", batch: int = 64
) -> np.memmap:
    """Scaled latents [N, C, h, w] float16 of `images` reduced to `size`, kept by VAE digest."""
    path = corpus.ROOT / f"{name}-{weights_digest(vae_folder)[:12]}-{size}-{len(images)}.npy"
    if not path.exists():
        vae = AutoencoderKL.from_pretrained(vae_folder, dtype=torch.float32).eval()
        vae.to(memory_format=torch.channels_last)
        out: NDArray[np.float16] | None = None
        temporary = path.with_name(f".{os.getpid()}.{path.name}")
        for start in range(0, len(images), batch):
            pixels = to_pixels(np.stack([_resized(x, size) for x in images[start : start + batch]]))
            mean = vae.encode(pixels.to(memory_format=torch.channels_last)).latent_dist.mean
            scaled = (mean - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor
            if out is None:
                shape = (len(images), *scaled.shape[1:])
                out = np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            out[start : start + batch] = scaled.numpy()
        os.replace(temporary, path)
    return np.load(path, mmap_mode="r")


def _resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    reduced = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    return reduced.astype(np.uint8, copy=False)
