"""What EliGen's tests have in common: the tiny base, an adapter with an effect, requests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from insitu.backbones.flux import FluxBackbone
from insitu.methods import Placement, Request
from insitu.methods.eligen import EliGen, Settings
from insitu.params import FluxCheckpoint

SIZE, WORDS = 32, 16
SETTINGS = Settings(
    most=3, rank=2, feed_forward=False, training_guidance=1.0, steps=4, guidance_scale=3.0,
    guidance=3.5, fuse="after_cfg", paste=True, image_prompt=None, image_prompt_scale=1.0,
)  # fmt: skip
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.25, 1.0, 1.0)


def base_of(checkpoints: dict[str, Path]) -> FluxBackbone:
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=SIZE, max_sequence_length=WORDS)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


def attached(base: FluxBackbone) -> Iterator[EliGen]:
    """With an adapter that has an effect, as large as what it is added to."""
    method = EliGen(SETTINGS)
    parts = method.attach(base)
    for k, p in enumerate(parts.parameters()):
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(k)) / 3
    yield method
    method.detach(base)


def photo(seed: int = 0, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mug(box: Any = LEFT) -> Placement:
    return Placement(box_xyxy01=box, prompt="a red mug")


def request(*placements: Placement, **more: Any) -> Request:
    given = {"image": photo(), "prompt": "a red mug and a blue cat", "seed": 3} | more
    return Request(placements=placements or (mug(),), **given)
