"""Both autoencoders: pictures there and back, and how much of them arrives."""

import numpy as np
from diffusers import AutoencoderKL

from insitu import world
from insitu.evaluation.checkpoints.vae import psnr, reconstruct
from insitu.evaluation.gallery.bench import Bench
from insitu.evaluation.gallery.cards import facts
from insitu.evaluation.gallery.page import Facts, Group, Image, Section, Tile, Unit
from insitu.params import Checkpoint

FIGURE = "VAE: PSNR (dB)"
MEANINGS = {FIGURE: "PSNR in dB over held-out scenes"}


def section(bench: Bench) -> Section:
    scenes = [
        world.sample_scene(bench.rng("autoencoders", i))
        for i in range(bench.settings.reconstructions)
    ]
    images = [world.render(scene, bench.settings.size).image for scene in scenes]
    columns, stated = [], []
    for name, checkpoint in (
        ("flux", bench.models.flux),
        ("sdxl-inpaint", bench.models.inpaint),
    ):
        tiles, own = _through(bench, name, checkpoint, images)
        columns.append(tiles)
        stated.append(own)
    units = [
        Unit(tiles=(Tile(image=image, label="original", alt=world.caption(scene)), *others))
        for scene, image, *others in zip(scenes, images, *columns, strict=True)
    ]
    return Section(
        key="autoencoders",
        title="Autoencoders",
        text="What latents keep of a picture: there and back through the posterior's mean.",
        groups=(Group(units=tuple(units)),),
        facts=tuple(stated),
    )


def _through(
    bench: Bench, name: str, checkpoint: Checkpoint, images: list[Image]
) -> tuple[list[Tile], Facts]:
    vae = bench.load_diffusers(AutoencoderKL, checkpoint, subfolder="vae").eval()
    original = (np.stack(images) / np.float32(255)).astype(np.float32)
    decoded = reconstruct(vae, original)
    tiles = [
        Tile(image=np.rint(image * 255).astype(np.uint8), label=f"{name} {decibels:.1f} dB")
        for image, decibels in zip(decoded, psnr(original, decoded), strict=True)
    ]
    side = 2 ** (len(vae.config.block_out_channels) - 1)
    title = f"{name}: {side} x {side} pixels to {vae.config.latent_channels} numbers"
    own = facts(title, checkpoint, vae, meanings=MEANINGS, figure=FIGURE, part="vae")
    return tiles, own
