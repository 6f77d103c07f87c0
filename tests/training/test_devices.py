"""Proves that the number of devices does not change what is learned: one process, two with DDP, two
with FSDP2, two nodes and turns give the same losses and weights; a run continues on another number
of them. A process that dies ends the job with its rank, and one that refuses is heard.

Needs no trained checkpoint. The processes are real ones, with gloo in place of GPUs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.training import requests
from insitu.training.callbacks import curve
from insitu.training.fit import CURVE, LAST
from insitu.training.job import JOB, REQUESTS, Job
from insitu.training.launch import launch
from insitu.training.recipe import Devices, Stage
from tests.training.runs import (
    FACTS,
    RECIPE,
    SETTINGS,
    WATCH,
    base,
    encoded,
    free_port,
    request,
    same_weights,
    stopping_at,
    together,
    train,
)

__all__ = ["base", "encoded"]


def test_devices_and_turns_do_not_change_the_losses(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    alone = train(base, encoded, tmp_path / "alone")
    assert len(alone) == 20 and min(alone) < 0.9 * alone[0]
    turns = train(base, encoded, tmp_path / "turns", devices=Devices(accumulate=4))
    np.testing.assert_allclose(turns, alone, atol=1e-5)
    again = train(base, encoded, tmp_path / "again", devices=Devices(recompute=True))
    np.testing.assert_allclose(again, alone, atol=1e-5)
    for kind in ("ddp", "fsdp"):
        work, devices = tmp_path / kind, Devices(count=2, strategy=kind)
        assert together(base, encoded, work, RECIPE, devices) == [0, 0]
        np.testing.assert_allclose(json.loads((work / "losses.json").read_text()), alone, atol=1e-5)
        same_weights(work, tmp_path / "alone", atol=1e-5)
        for one, other in zip(curve(work / CURVE), curve(tmp_path / "alone" / CURVE), strict=True):
            assert one == pytest.approx(other, abs=1e-5)


@pytest.mark.parametrize("first", ["fsdp", "alone"])
def test_it_continues_on_another_number_of_devices(
    base: str, encoded: Path, tmp_path: Path, first: str
) -> None:
    """The weights are the same up to the order of sums; averages and moments come along."""
    recipe, torn = replace(RECIPE, average=0.9), tmp_path / "torn"
    train(base, encoded, tmp_path / "whole", recipe)
    spread = Devices(count=2, strategy="fsdp")
    if first == "fsdp":
        assert 0 not in together(base, encoded, torn, recipe, spread, stop_at=9)
        assert len(curve(torn / CURVE)) == 1  # the one before the first step
        train(base, encoded, torn, recipe)
    else:
        with stopping_at(9):
            train(base, encoded, torn, recipe)
        assert together(base, encoded, torn, recipe, spread) == [0, 0]
    same_weights(torn, tmp_path / "whole", atol=1e-5)


def make_job(base: str, encoded: Path, work: Path, **changed: object) -> Job:
    values = {
        "method": "dreammix", "settings": SETTINGS, "checkpoint": {"path": base}, "device": "cpu",
        "precision": {"dtype": "float32"}, "encoded": str(encoded), "facts": FACTS,
        "recipe": RECIPE, "devices": Devices(count=2), "watch": WATCH, "work": str(work),
        "threads": 1,
    }  # fmt: skip
    work.mkdir(parents=True, exist_ok=True)
    requests.save([request()], work / REQUESTS)
    return Job(**(values | changed))


def test_a_process_that_dies_ends_the_job_with_its_rank(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    job = make_job(base, encoded, tmp_path / "work", recipe=replace(RECIPE, steps=5000))
    began = time.monotonic()

    def kill() -> None:
        while not (tmp_path / "work" / LAST).exists():
            time.sleep(0.05)
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                told = path.read_bytes()
                mine = str(tmp_path).encode() in (path.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if mine and b"\0RANK=1\0" in told:
                nonlocal began
                began = time.monotonic()
                os.kill(int(path.parent.name), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    with pytest.raises(UserError, match="rank 1 ended with SIGKILL"):
        launch(job)
    assert time.monotonic() - began < 60
    assert not thread.is_alive()


def test_a_process_refusal_reaches_whoever_launched_it(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    job = make_job(base, encoded, tmp_path / "work", facts={"photos": "others"})
    with pytest.raises(UserError, match="photos was p, is others"):
        launch(job)


def test_two_nodes_meet_and_train_as_one(base: str, encoded: Path, tmp_path: Path) -> None:
    devices = Devices(count=1, nodes=2, rendezvous=f"127.0.0.1:{free_port()}")
    job = make_job(base, encoded, tmp_path / "work", devices=devices)
    job.write(tmp_path / "work" / JOB)
    command = [sys.executable, "-m", "insitu.training.launch", str(tmp_path / "work" / JOB)]
    other = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        launch(job)
        assert other.wait(60) == 0
    finally:
        other.kill()
    train(base, encoded, tmp_path / "alone")
    same_weights(tmp_path / "work", tmp_path / "alone", atol=1e-5)


def test_a_job_comes_back_from_its_file(base: str, encoded: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(Stage(until=1.0, learning=("*to_k*",)),), average=0.9)
    job = make_job(base, encoded, tmp_path, recipe=recipe)
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job
    assert np.array_equal(requests.load(tmp_path / REQUESTS)[0].image, request().image)
