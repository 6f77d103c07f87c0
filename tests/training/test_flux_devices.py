"""Proves that a method on FLUX's branches learns the same on two devices as on one: adapters of
conditions, padded identities and a position encoder that is computed within the transformer's pass.

Needs no trained checkpoint. The processes are real ones, with gloo in place of GPUs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from insitu.backbones.flux import FluxBackbone
from insitu.methods import VALIDATION, Example, Placement, Request, find
from insitu.params import FluxCheckpoint
from insitu.training.encoding import encode
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Recipe, Watch
from insitu.training.times import Times
from tests.training.runs import learn_alike

SIZE, FACTS = 32, {"rows": "r"}
SIZES = {"size": SIZE, "max_sequence_length": 16}
SETTINGS = {
    "most": 2, "identity_rank": 2, "inpaint_rank": 2, "targets": "wide", "adapters": "both",
    "shifted": True, "placed": True, "frequencies": 2, "group": "identity+position",
    "reference_size": 8, "fill": 128, "category": True, "steps": 1, "guidance_scale": 3.5,
    "passes": "one", "paste": True,
}  # fmt: skip
RECIPE = Recipe(
    steps=4, batch=4, seed=4, shares={"boundid": 1.0},
    optimizer=Optimization(name="adamw", lr=1e-2, weight_decay=0.0),
    times=Times(kind="uniform"), drop={"text": 0.2, "condition": 0.2},
)  # fmt: skip


def example(k: int) -> Example:
    rng = np.random.default_rng(k)
    picture = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    boxes = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
    return Example(
        id=f"e{k}", image=picture, mask=np.full((SIZE, SIZE), 255, np.uint8), prompt="[V1] mug",
        pool=VALIDATION if k == 4 else "boundid",
        placements=tuple(
            Placement(box_xyxy01=box, reference=picture[:16, :16]) for box in boxes[: 1 + k % 2]
        ),
    )  # fmt: skip


def asked() -> Request:
    one = example(4)
    return Request(image=one.image, placements=one.placements, prompt=one.prompt, seed=0)


@pytest.fixture(scope="module")
def job(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all runs have in common, over encoded examples."""
    folder = tmp_path_factory.mktemp("flux")
    checkpoint = {"path": str(checkpoints["flux"]), **SIZES}
    base = FluxBackbone.load(FluxCheckpoint(**checkpoint), device=torch.device("cpu"))
    method = find("inpaint_anywhere", SETTINGS)
    examples = [example(k) for k in range(5)]
    encode(method, base, examples, folder / "e", facts=FACTS, root=folder / "work")
    return {
        "method": method.name, "settings": SETTINGS, "checkpoint": checkpoint, "device": "cpu",
        "precision": {"dtype": "float32"}, "encoded": str(folder / "e"), "facts": FACTS,
        "recipe": RECIPE, "watch": Watch(validate=4, save=4), "threads": 1,
    }  # fmt: skip


def test_two_devices_learn_what_one_learns(job: dict[str, Any], tmp_path: Path) -> None:
    learn_alike(job, asked(), tmp_path)
