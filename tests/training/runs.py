"""Small real training runs that tests share: a tiny random base, in this process or in others."""

import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from safetensors.torch import load_file

from insitu.backbones.unet import InpaintBackbone
from insitu.methods import VALIDATION, Example, Placement, Request, find
from insitu.params import Checkpoint
from insitu.training import fit as fitting
from insitu.training import requests
from insitu.training.encoding import Encoded, encode
from insitu.training.fit import ADAPTER, fit
from insitu.training.job import REQUESTS, Job
from insitu.training.launch import launch
from insitu.training.module import Training
from insitu.training.optimizers import Optimization
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.times import Times

SETTINGS = {
    "rank": 2, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4,
    "local": 1.0, "enlarge": 0.0, "background": "original", "substitute": "tokens",
    "scheduler": "own", "steps": 1, "guidance_scale": 2.0, "rescale": 0.0, "context": 0.3,
}  # fmt: skip
METHOD = find("dreammix", SETTINGS)
"""One for all runs, as a stage has one for all subjects: its memory is rehearsed once."""
RECIPE = Recipe(
    steps=20, batch=8, seed=4, shares={"subject": 0.7, "regular": 0.3},
    optimizer=Optimization(name="adamw", lr=1e-2, weight_decay=0.0), cooldown=0.5,
    times=Times(kind="uniform"), drop={"text": 0.3},
)  # fmt: skip
FACTS = {"photos": "p"}
WATCH = Watch(validate=10, save=1, log=1)


@pytest.fixture(scope="module")
def base(checkpoints: dict[str, Path]) -> str:
    return str(checkpoints["inpaint"])


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
    encode(METHOD, backbone, examples, folder / "e", facts=FACTS, root=folder / "work")
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
        METHOD, load(base), Encoded.open(encoded, FACTS), [request()],
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


def alone(
    base: str,
    encoded: Path,
    work: Path,
    recipe: Recipe = RECIPE,
    devices: Devices | None = None,
    stop_at: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """A run in a process of its own; without the memory plan, which takes longer than the rest."""
    torch.set_num_threads(1)
    os.environ.update(environment or {})
    fitting.require_room = lambda *args, **kwargs: None  # type: ignore[assignment]
    if stop_at is not None:
        _at(stop_at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    losses = train(base, encoded, work, recipe, devices)
    if os.environ.get("RANK", "0") == "0":
        (work / "losses.json").write_text(json.dumps(losses))


def forked(target: Callable[..., None], *args: object) -> BaseProcess:
    """A process of its own, forked from one that has imported everything once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.training.runs"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def ended(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Their exit statuses, once they have one."""
    for process in processes:
        process.join(300)
    return [process.exitcode for process in processes]


def together(
    base: str,
    encoded: Path,
    work: Path,
    recipe: Recipe,
    devices: Devices,
    stop_at: int | None = None,
) -> list[int | None]:
    """Exit statuses of a run's processes, which find in their environment what torchrun tells."""
    told = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(devices.ranks), "LOCAL_WORLD_SIZE": str(devices.ranks),
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "together",
    }  # fmt: skip
    processes = [
        forked(
            alone, base, encoded, work, recipe, devices, stop_at,
            told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(devices.ranks)
    ]  # fmt: skip
    return ended(processes)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Stopped(Exception):
    """In place of a kill, for runs in this process."""


def _at(step: int, do: Callable[[], None]) -> pytest.MonkeyPatch:
    """Do something before a step."""
    begin = Training.on_train_batch_start

    def before(self: Training, batch: Any, index: int) -> None:
        if self.global_step == step:
            do()
        begin(self, batch, index)

    patch = pytest.MonkeyPatch()
    patch.setattr(Training, "on_train_batch_start", before)
    return patch


@contextmanager
def stopping_at(step: int) -> Iterator[None]:
    """Within it, a run ends before this step; what it saved is there."""

    def stop() -> None:
        raise Stopped

    patch = _at(step, stop)
    try:
        with pytest.raises(Stopped):
            yield
    finally:
        patch.undo()


def learn_alike(job: Mapping[str, Any], asked: Request, folder: Path) -> None:
    """Run a job on one device and on two, spread both ways; all learn what the one learns."""
    for name, devices in (
        ("one", Devices()),
        ("ddp", Devices(count=2)),
        ("fsdp", Devices(count=2, strategy="fsdp")),
    ):
        work = folder / name
        work.mkdir()
        requests.save([asked], work / REQUESTS)
        launch(Job(**job, devices=devices, work=str(work)))
        same_weights(work, folder / "one", atol=1e-5)
