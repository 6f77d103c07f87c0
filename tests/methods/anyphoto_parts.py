"""AnyPhoto on tiny random checkpoints, for its tests."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from insitu.backbones import adapters
from insitu.backbones.flux import FluxBackbone
from insitu.digest import weights_digest
from insitu.methods import Example, Placement, Request, Told, find
from insitu.methods.anyphoto import AnyPhoto
from insitu.methods.anyphoto.data import Person, Portrait
from insitu.methods.anyphoto.layout import ADAPTER
from insitu.params import FluxCheckpoint, Params

SIZE = 64
FACE = ((0.3, 0.4), (0.7, 0.4), (0.5, 0.6), (0.35, 0.8), (0.65, 0.8))
"""Landmarks of a face that fills its picture, in the tiny embedder's own proportions."""
Landmarks = tuple[tuple[float, float], ...]


def backbone_of(checkpoints: dict[str, Path], size: int = SIZE) -> FluxBackbone:
    checkpoint = FluxCheckpoint(path=str(checkpoints["flux"]), size=size, max_sequence_length=16)
    return FluxBackbone.load(checkpoint, device=torch.device("cpu"))


def shipped_settings(params: Params) -> dict[str, Any]:
    return params.anyphoto.model_dump(exclude={"train"})


def method_of(checkpoints: dict[str, Path], params: Params, **changed: Any) -> AnyPhoto:
    """The shipped settings, made small, with the tiny embedder."""
    folder = checkpoints["face"]
    pin = {"path": str(folder), "revision": None, "digest": weights_digest(folder)}
    small = {"faces": 3, "rank": 2, "patch": 16, "variants": 2, "steps": 2, "face": pin}
    found = find("anyphoto", shipped_settings(params) | small | changed)
    assert isinstance(found, AnyPhoto)
    return found


def picture(seed: int, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Smooth, so that a small shift is a small change."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.kron(coarse, np.ones((height // 4, width // 4, 1))).astype(np.uint8)


def at(x: float, y: float, side: float) -> Landmarks:
    """Landmarks of a face whose aligned crop has its middle and side there, in shares."""
    return tuple((x + (u - 0.5) * side, y + (v - 0.5) * side) for u, v in FACE)


PLACES = (at(0.25, 0.3, 0.3), at(0.75, 0.3, 0.35), at(0.5, 0.75, 0.3))


def people(count: int) -> tuple[Person, ...]:
    return tuple(
        Person(
            box_xyxy01=(0.1, 0.1, 0.4, 0.4), landmarks_xy01=PLACES[k], reference=picture(k),
            reference_landmarks_xy01=FACE,
            others=tuple(
                Portrait(image=picture(10 * k + n), landmarks_xy01=FACE) for n in (11, 12, 13)
            ),
        )
        for k in range(count)
    )  # fmt: skip


def example(number: int, count: int, pool: str = "groups") -> Example:
    return Example(
        id=f"e{number}", image=picture(100 + number), prompt=f"{count} people", pool=pool,
        placements=people(count),
    )  # fmt: skip


def request(count: int = 2, seed: int = 3, height: int = SIZE, width: int = SIZE) -> Request:
    placements = tuple(
        Placement(
            box_xyxy01=(0.1, 0.1, 0.4, 0.4), landmarks_xy01=PLACES[k], reference=picture(k),
            reference_landmarks_xy01=FACE,
        )
        for k in range(count)
    )  # fmt: skip
    photo = np.zeros((height, width, 3), np.uint8)
    return Request(
        image=photo, placements=placements, prompt="people at a table", seed=seed,
        background="free",
    )  # fmt: skip


def told_of(method: AnyPhoto, backbone: FluxBackbone, examples: list[Example], **more: Any) -> Told:
    text = backbone.encode_text(tuple(one.prompt for one in examples))
    generator = torch.Generator().manual_seed(5)
    drawn = {
        "text.tokens": text.tokens, "text.pooled": text.pooled,
        "chances": torch.rand(len(examples), 16, generator=generator),
        "progress": torch.ones(len(examples)),
    }  # fmt: skip
    with torch.no_grad():
        return method.condition(backbone, examples) | drawn | more


def noise(told: Told) -> torch.Tensor:
    return torch.randn(told["z_0"].shape, generator=torch.Generator().manual_seed(1))


def learned(method: AnyPhoto, backbone: FluxBackbone, scale: float = 0.3) -> None:
    """Give all that learns weights that have an effect."""
    generator = torch.Generator().manual_seed(2)
    parts = [adapters.layers(backbone.transformer, ADAPTER)]
    if method.settings.modulated:
        parts.append(backbone.transformer.identity_modulation)
    for part in parts:
        for p in part.parameters():
            p.data = scale * torch.randn(p.shape, generator=generator)
