"""Small real training runs that tests share: a tiny random base, in this process or in others."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from safetensors.torch import load_file

from insitu.backbones.unet import InpaintBackbone
from insitu.methods import VALIDATION, Example, Placement, Request, find
from insitu.params import Checkpoint
from insitu.training import fit as fitting
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import ADAPTER, fit
from insitu.training.module import Training
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.times import Times

__all__ = ["Training", "replace"]  # the script's

SETTINGS = {
    "rank": 2, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4, "steps": 1,
    "guidance_scale": 2.0, "context": 0.3,
}  # fmt: skip
RECIPE = Recipe(
    steps=20, batch=8, seed=4, shares={"subject": 0.7, "regular": 0.3},
    optimizer=Optimization(name="adamw", lr=1e-2, weight_decay=0.0), cooldown=0.5,
    times=Times(kind="uniform"), drop={"text": 0.3},
)  # fmt: skip
FACTS = {"photos": "p"}
WATCH = Watch(validate=10, save=1, log=1)


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> str:
    return str(checkpoints["sdxl_inpaint"])


@pytest.fixture(scope="module")
def encoded(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("encoded")
    mask = np.zeros((32, 32), np.uint8)
    mask[8:24, 8:24] = 255
    examples = [
        Example(
            id=f"e{k}", image=rng.integers(0, 256, (32, 32, 3), np.uint8), mask=mask,
            prompt="a red mug", pool=pool,
        )
        for k, pool in enumerate(["subject"] * 5 + ["regular"] * 4 + [VALIDATION] * 3)
    ]  # fmt: skip
    backbone = load(base)
    method = find("dreammix", SETTINGS)
    encode(method, backbone, examples, folder / "e", facts=FACTS, root=folder / "work")
    return folder / "e"


def load(base: str) -> InpaintBackbone:
    return InpaintBackbone.load(Checkpoint(path=base), device=torch.device("cpu"))


def request() -> Request:
    photo = np.full((32, 32, 3), 90, np.uint8)
    return Request(
        image=photo,
        placements=(Placement(box_xyxy01=(0.2, 0.2, 0.8, 0.8)),),
        prompt="a red mug",
        seed=0,
    )


def train(
    base: str, encoded: Path, work: Path, recipe: Recipe = RECIPE, devices: Devices | None = None
) -> list[float]:
    """The losses [steps] of a run in this process."""
    work.mkdir(parents=True, exist_ok=True)
    logger = Losses()
    fit(
        find("dreammix", SETTINGS), load(base), Encoded.open(encoded, FACTS), [request()],
        recipe=recipe, devices=devices or Devices(), watch=WATCH, work=work, logger=logger,
    )  # fmt: skip
    return logger.losses


class Losses(Logger):
    """Keeps the losses, and everything else that is logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    name = version = property(lambda self: "losses")

    def log_hyperparams(self, *args: object, **kwargs: object) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.setdefault(int(step or 0), {}).update(metrics)

    @property
    def losses(self) -> list[float]:
        return [row["loss"] for _, row in sorted(self.rows.items()) if "loss" in row]


def same_weights(one: Path, other: Path, atol: float = 0.0) -> None:
    a, b = load_file(one / ADAPTER), load_file(other / ADAPTER)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=atol)


def alone(base: str, encoded: Path, work: Path, recipe: Recipe) -> None:
    """A run in a process of its own; without the memory plan, which takes longer than the rest."""
    torch.set_num_threads(1)
    fitting.require_room = lambda *args, **kwargs: None  # type: ignore[assignment]
    train(base, encoded, work, recipe)


class Stopped(Exception):
    """In place of a kill, for runs in this process."""


@contextmanager
def stopping_at(step: int) -> Iterator[None]:
    """Within it, a run ends before this step; what it saved is there."""

    def stop(self: Training, batch: object, index: int) -> None:
        if self.global_step == step:
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "on_train_batch_start", stop)
        with pytest.raises(Stopped):
            yield


SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from tests.training import runs as t

import torch
torch.set_num_threads(1)
base, encoded, work, settings = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
settings = json.loads(settings)
if "STOP_AT" in os.environ:
    step = t.Training.on_train_batch_start
    def stopping(self, batch, index):
        if self.global_step == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, batch, index)
    t.Training.on_train_batch_start = stopping
recipe = t.replace(t.RECIPE, **settings.get("recipe", {}))
losses = t.train(base, encoded, work, recipe, t.Devices(**settings.get("devices", {})))
if os.environ.get("RANK", "0") == "0":
    (work / "losses.json").write_text(json.dumps(losses))
"""


def run(
    base: str, encoded: Path, work: Path, *, settings: dict[str, object], processes: int = 1
) -> "subprocess.Popen[str]":
    """The same in processes of their own."""
    work.mkdir(parents=True, exist_ok=True)
    script = work / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(script), base, str(encoded), str(work), json.dumps(settings)]
    env = os.environ | {"PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: "subprocess.Popen[str]") -> str:
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    return told
