"""Held-out figures of an autoencoder (`AutoencoderKL`): PSNR, beside a PCA of the same shape."""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap

SIZE = 64
PCA_PICTURES = 1500


def figures(path: Path | str, *, count: int = 256, seed: int = 0) -> dict[str, Figure]:
    """PSNR in dB over held-out scenes, of the posterior's mean and of the PCA it has to beat.

    The PCA maps patches as wide as the autoencoder's downsampling to as many numbers as it has
    latent channels. Both are means over pictures of 10 log10(1 / squared error), pixels in [0, 1].
    """
    vae = AutoencoderKL.from_pretrained(path, dtype=torch.float32).eval()
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    images = _scenes("held-out", "vae", seed, count=count)
    pca = pca_reconstruction(
        _scenes("pca", seed, count=PCA_PICTURES), images, factor, vae.config.latent_channels
    )
    return {
        "PSNR (dB)": bootstrap(psnr(images, reconstruct(vae, images))),
        "PSNR of a PCA of the same shape (dB)": bootstrap(psnr(images, pca)),
    }


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, H, W, 3] in [0, 1], there and back through the posterior's mean."""
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).to(vae.device, vae.dtype).split(32)
    decoded = [vae.decode(vae.encode(x * 2 - 1).latent_dist.mean).sample for x in batches]
    return (torch.cat(decoded).float().cpu() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()


def pca_reconstruction(
    train: NDArray[np.float32], images: NDArray[np.float32], patch: int, components: int
) -> NDArray[np.float32]:
    """Project `images` on the first components of `train`'s patches, [N, H, W, 3] in [0, 1]."""
    rows = _patches(train, patch)
    mean = rows.mean(0)
    _, vectors = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    basis = vectors[:, -components:]
    flat = _patches(images, patch) - mean
    n, h, w, c = images.shape
    grid = (flat @ basis @ basis.T + mean).reshape(n, h // patch, w // patch, patch, patch, c)
    return np.clip(grid.transpose(0, 1, 3, 2, 4, 5).reshape(images.shape), 0, 1).astype(np.float32)


def psnr(images: NDArray[np.float32], decoded: NDArray[np.float32]) -> NDArray[np.float64]:
    """One value a picture, in dB."""
    error = np.square(images.astype(np.float64) - decoded).mean(axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, 1e-10))


def _patches(images: NDArray[np.float32], patch: int) -> NDArray[np.float32]:
    n, h, w, c = images.shape
    grid = images.reshape(n, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(-1, patch * patch * c)


def _scenes(*key: int | str, count: int) -> NDArray[np.float32]:
    scenes = (world.sample_scene(world.rng_for(*key, i)) for i in range(count))
    images = np.stack([world.render(s, SIZE).image for s in scenes]).astype(np.float32)
    return images / np.float32(255)
