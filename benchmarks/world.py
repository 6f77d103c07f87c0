"""How fast the world is drawn on one core, against a target and against a naive peer.

The peer draws the same scenes with 8 samples a pixel's side where the world takes 4, the plain way
to smooth edges. Seconds are the processor's, so that other work on the machine counts little.

    python benchmarks/world.py
"""

import argparse
import os
import time
from collections.abc import Iterable
from unittest.mock import patch

import cv2
import numpy as np

from insitu import world
from insitu.world import paint

TARGET_S, TARGET_SCENES = 5.0, 1000
SIZE = 64
PEER_SAMPLES = 8


def use_one_core() -> None:
    """Keep this process, and OpenCV inside it, on a single core."""
    cv2.setNumThreads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def draw(seeds: Iterable[int]) -> tuple[np.ndarray, float]:
    """Pictures uint8 [N, SIZE, SIZE, 3] of sampled scenes, with their truth, and CPU seconds."""
    start = time.process_time()
    images = [
        world.render(world.sample_scene(world.rng_for("benchmark", seed)), SIZE).image
        for seed in seeds
    ]
    return np.stack(images), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the drawing of scenes on one core.")
    parser.add_argument("--scenes", type=int, default=TARGET_SCENES, help="how many to draw")
    scenes = parser.parse_args().scenes
    if scenes < 1:
        parser.error("--scenes must be 1 or more, since a rate needs something drawn")

    use_one_core()
    draw(range(min(20, scenes)))  # loads what is loaded once
    images, seconds = draw(range(scenes))
    compared = max(1, scenes // 5)
    with patch.object(paint, "SUPERSAMPLE", PEER_SAMPLES):
        peer_images, peer_seconds = draw(range(compared))
    peer_seconds *= scenes / compared
    apart = np.abs(images[:compared].astype(int) - peer_images).mean()

    target = TARGET_S * scenes / TARGET_SCENES
    verdict = "met" if seconds < target else "missed"
    print(f"{scenes} scenes of {SIZE} x {SIZE} pixels, sampled and drawn with their ground truth")
    print(f"{'':24}{'CPU s':>8}{'scenes/s':>10}{'ratio':>7}")
    for name, spent in (
        (f"world, {paint.SUPERSAMPLE} samples", seconds),
        (f"naive peer, {PEER_SAMPLES} samples", peer_seconds),
    ):
        print(f"{name:24}{spent:8.2f}{scenes / spent:10.0f}{spent / seconds:7.2f}")
    print(f"target: under {target:g} s on one core: {verdict}")
    print(f"the two differ by {apart:.1f} of 255 on average")


if __name__ == "__main__":
    main()
