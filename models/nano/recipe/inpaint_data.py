"""What sdxl-inpaint trains on: holes in scenes, from far and from near, and texts for them."""

import functools
from pathlib import Path

import numpy as np

from insitu import world
from insitu.backbones.zoom import Window, box_mask
from insitu.evaluation.checkpoints.inpaint import grown

from . import corpus, latents, pictures

FAR = 2 * pictures.SIZE
"""Pixels of the scenes that the near holes are cut from."""


def hole(index: int, *, near: bool = False) -> dict[str, np.ndarray]:
    """A scene, a mask (1 = fill) over one of its things, and texts for what is under it.

    `near` = the square around the thing, at up to twice its longer side.
    """
    rng = world.rng_for("inpaint-near" if near else "inpaint", index)
    scene = world.sample_scene(rng)
    rendered = world.render(scene, FAR if near else pictures.SIZE)
    seen = [i for i, thing in enumerate(rendered.things) if thing.visible > 0.4]
    thing = rendered.things[world.pick(rng, seen or [0])]
    colours = scene.style != "line art"
    level = world.pick(rng, world.DETAILS)
    text = world.describe(thing.thing, detail=level, colours=colours)
    if rng.random() < (0.05 if near else 0.2):
        text = world.caption(scene, rng=rng)
    mask = box_mask(grown(thing.box_xyxy01, float(rng.uniform(0.0, 0.3))), rendered.image)
    image = rendered.image
    if near:
        window = Window.around(thing.box_xyxy01, image, context=float(rng.uniform(0.15, 1.0)))
        image, mask = window.cut(image, pictures.SIZE), window.cut(mask, pictures.SIZE)
    return {
        "image": image,
        "mask": (mask > 127).astype(np.uint8),
        "text": np.array(text, latents.TEXT),
    }


class Holes:
    """Latents, masks and texts of `count` holes, far or near, encoded by the VAE in `vae`."""

    def __init__(self, count: int, vae: Path, *, near: bool) -> None:
        name = "inpaint-near" if near else "inpaint"
        data = corpus.build(name, count, functools.partial(hole, near=near))
        images, self.masks = data["image"], data["mask"]
        self.texts: np.ndarray = data["text"]
        holed = _Holed(images, self.masks)
        # Encoded when first needed: the small pictures' phase starts before the large are ready.
        self.clean = functools.cache(
            lambda size: latents.encoded(vae, images, size, name=f"{name}-clean")
        )
        self.holed = functools.cache(
            lambda size: latents.encoded(vae, holed, size, name=f"{name}-holed")
        )

    def draw(
        self, rng: np.random.Generator, count: int, size: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Clean latents, holed latents, masks [N, 1, h, w] and texts of `count` rows."""
        rows = np.sort(rng.choice(len(self.texts), count, replace=False))
        clean, holed = self.clean(size)[rows], self.holed(size)[rows]
        stride = pictures.SIZE // clean.shape[-1]
        return clean, holed, self.masks[rows][:, None, ::stride, ::stride], self.texts[rows]


class _Holed:
    """Pictures with mid-gray under the mask, made on demand; what the pipeline encodes."""

    def __init__(self, images: np.ndarray, masks: np.ndarray) -> None:
        self.images, self.masks = images, masks

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.where(self.masks[rows][..., None] == 1, np.uint8(128), self.images[rows])
