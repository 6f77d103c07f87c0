"""Proves that LAR-Gen learns on two devices what it learns on one, in both of its stages: a second
U-Net within the first, called by itself, and parameters that learn at other times than others.

Needs no trained checkpoint. The processes are real ones, with gloo in place of GPUs.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.backbones.loading import base_digest
from insitu.backbones.pins import Pin
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import VALIDATION, Example, Placement, Request
from insitu.methods.lar_gen import LarGen, Settings
from insitu.params import Checkpoint
from insitu.training.encoding import encode
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Recipe, Stage, Watch
from insitu.training.times import Times
from tests import tiny
from tests.training.runs import learn_alike

SIZE, FACTS = 32, {"rows": "r"}
RECIPE = Recipe(
    steps=4, batch=4, seed=4, shares={"quadruples": 1.0},
    optimizer=Optimization(name="adamw", lr=1e-2, weight_decay=0.0),
    times=Times(kind="uniform"), drop={"text": 0.2, "condition": 0.2},
    stages=(
        Stage(until=0.5, learning=("assign.*", "main.*")),
        Stage(until=1.0, learning=("refine.*",)),
    ),
)  # fmt: skip


def example(k: int, size: int) -> Example:
    rng = np.random.default_rng(k)
    mask = np.zeros((size, size), np.uint8)
    mask[: size // 2] = 255
    reference = rng.integers(0, 256, (16, 16, 3), np.uint8)
    return Example(
        id=f"e{k}", image=rng.integers(0, 256, (size, size, 3), np.uint8), mask=mask,
        prompt="a mug", pool=VALIDATION if k == 4 else "quadruples",
        placements=(Placement(box_xyxy01=(0.0, 0.0, 1.0, 0.5), reference=reference),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def job(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all runs have in common, over encoded examples."""
    folder = tmp_path_factory.mktemp("unet")
    torch.manual_seed(0)
    tiny.inpainting(folder / "base", family="sdxl", channels=9)
    clip = str(checkpoints["clip"])
    settings = Settings(
        assign=True, refine=True, tokens=2, width=16, depth=1, head=8, main="attention",
        first_stage=0.5, beta=0.5, captions="regional", mask_shape="box", subject_size=0,
        context=0.3, scheduler="ddim", steps=1, guidance_scale=3.0, rescale=0.5,
        guide_refine=False,
        clip=Pin(path=clip, revision=None, digest=base_digest(Checkpoint(path=clip))),
    )  # fmt: skip
    checkpoint = {"path": str(folder / "base"), "revision": None}
    base = InpaintBackbone.load(Checkpoint(**checkpoint), device=torch.device("cpu"))
    examples = [example(k, base.size) for k in range(5)]
    encode(LarGen(settings), base, examples, folder / "e", facts=FACTS, root=folder / "work")
    return {
        "method": "lar_gen", "settings": asdict(settings), "checkpoint": checkpoint,
        "device": "cpu", "precision": {"dtype": "float32"}, "encoded": str(folder / "e"),
        "facts": FACTS, "recipe": RECIPE, "watch": Watch(validate=4, save=4), "threads": 1,
    }  # fmt: skip


def test_two_devices_learn_what_one_learns(job: dict[str, Any], tmp_path: Path) -> None:
    one = example(4, SIZE)
    asked = Request(image=one.image, placements=one.placements, prompt=one.prompt, seed=0)
    learn_alike(job, asked, tmp_path)
