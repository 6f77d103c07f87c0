"""What is done to a pasted face so that it cannot simply be copied (appendix A.2, step 4).

Each takes pixels uint8 [P, P, 3], a stream and a severity in 0..1, and gives pixels of that shape.
The paper names the kinds and not how strong they are: at severity 1 they are as strong as below.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from PIL import Image as Pillow
from PIL import ImageEnhance, ImageFilter, ImageOps

from insitu.methods import Image
from insitu.methods.anyphoto.canvas import Patch

Rng = np.random.Generator
FLIP = "flip"
MIRRORED = [1, 0, 2, 4, 3]
"""A mirrored face's left eye was the right one, and so on."""


def colour_jitter(pixels: Image, rng: Rng, severity: float) -> Image:
    """Brightness, contrast and saturation up to half as much or more; hue by up to 18 degrees."""
    image = Pillow.fromarray(pixels)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(1 + severity * rng.uniform(-0.5, 0.5))
    hue, saturation, value = image.convert("HSV").split()
    turn = round(severity * rng.uniform(-0.05, 0.05) * 256)
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    return np.asarray(Pillow.merge("HSV", (hue, saturation, value)).convert("RGB"))


def grayscale(pixels: Image, rng: Rng, severity: float) -> Image:
    """Colour faded to gray, wholly at severity 1."""
    return np.asarray(ImageEnhance.Color(Pillow.fromarray(pixels)).enhance(1 - severity))


def blur(pixels: Image, rng: Rng, severity: float) -> Image:
    """Gaussian, of a radius of up to a twentieth of the side."""
    radius = severity * rng.uniform(0, 0.05) * len(pixels)
    return np.asarray(Pillow.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def sharpness(pixels: Image, rng: Rng, severity: float) -> Image:
    """Softer, down to none, or sharper, up to three times."""
    factor = 1 + severity * rng.uniform(-1, 2)
    return np.asarray(ImageEnhance.Sharpness(Pillow.fromarray(pixels)).enhance(factor))


def autocontrast(pixels: Image, rng: Rng, severity: float) -> Image:
    """Stretched to full range; up to a tenth of the pixels at each end saturates."""
    cutoff = severity * rng.uniform(0, 10)
    return np.asarray(ImageOps.autocontrast(Pillow.fromarray(pixels), cutoff=cutoff))


def salt_and_pepper(pixels: Image, rng: Rng, severity: float) -> Image:
    """Up to a tenth of the pixels black or white."""
    drawn = rng.random(pixels.shape[:2])
    share = severity * rng.uniform(0, 0.1)
    result = pixels.copy()
    result[drawn < share] = 255
    result[drawn < share / 2] = 0
    return result


def gaussian_noise(pixels: Image, rng: Rng, severity: float) -> Image:
    """Of a deviation of up to 40 levels."""
    deviation = severity * rng.uniform(0, 40)
    return _levels(pixels + rng.normal(0, deviation, pixels.shape))


def occlusion(pixels: Image, rng: Rng, severity: float) -> Image:
    """A rectangle of one colour, up to half of the side long and high."""
    size = len(pixels)
    high, wide = (max(1, round(v)) for v in severity * rng.uniform(0.1, 0.5, 2) * size)
    y, x = int(rng.integers(size - high + 1)), int(rng.integers(size - wide + 1))
    result = pixels.copy()
    result[y : y + high, x : x + wide] = rng.integers(0, 256, 3)
    return result


def illumination(pixels: Image, rng: Rng, severity: float) -> Image:
    """Light from a side: a slope from darker to brighter by up to 0.7."""
    steps = np.linspace(-1, 1, len(pixels))
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.cos(angle) * steps[None] + np.sin(angle) * steps[:, None]
    return _levels(pixels * (1 + severity * rng.uniform(0, 0.7) * slope)[..., None])


def jpeg(pixels: Image, rng: Rng, severity: float) -> Image:
    """Quality from 95 down to 10."""
    file = io.BytesIO()
    quality = round(95 - severity * rng.uniform(0, 85))
    Pillow.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Pillow.open(file).convert("RGB"))


def low_resolution(pixels: Image, rng: Rng, severity: float) -> Image:
    """Down to a quarter of the side, and up again."""
    size = len(pixels)
    small = max(2, round(size / (1 + severity * rng.uniform(0, 3))))
    down = cv2.resize(pixels, (small, small), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(down, (size, size), interpolation=cv2.INTER_LINEAR), np.uint8)


KINDS: Mapping[str, Callable[[Image, Rng, float], Image]] = {
    "colour_jitter": colour_jitter, "grayscale": grayscale, "blur": blur, "sharpness": sharpness,
    "autocontrast": autocontrast, "salt_and_pepper": salt_and_pepper,
    "gaussian_noise": gaussian_noise, "occlusion": occlusion, "illumination": illumination,
    "jpeg": jpeg, "low_resolution": low_resolution,
}  # fmt: skip
"""All but the flip, which moves landmarks, too."""


def degraded(
    patch: Patch, kinds: Sequence[str], rng: Rng, *, probability: float, severity: float
) -> Patch:
    """The patch with each of these kinds done to it by chance, in their order."""
    for kind in kinds:
        if rng.random() >= probability:
            continue
        if kind == FLIP:
            patch = flipped(patch)
        else:
            pixels = KINDS[kind](patch.pixels, rng, severity)
            patch = Patch(pixels=pixels, alpha=patch.alpha, landmarks=patch.landmarks)
    return patch


def flipped(patch: Patch) -> Patch:
    """Mirrored, with its landmarks."""
    landmarks = (patch.landmarks * (-1, 1) + (len(patch.pixels), 0))[MIRRORED]
    return Patch(pixels=patch.pixels[:, ::-1].copy(), alpha=patch.alpha[:, ::-1].copy(),
                 landmarks=landmarks)  # fmt: skip


def _levels(values: np.ndarray) -> Image:
    return np.rint(values.clip(0, 255)).astype(np.uint8)
