"""Proves that workers on Ray make the files that one process makes, byte for byte, and that what
goes wrong there is told as it is here.

Needs Ray, whose own cluster listens on this machine's loopback alone, and the embedded checkpoints.
One cluster, which the first run starts as any run does, serves all tests.
"""

import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from insitu.errors import UserError
from insitu.params import load
from insitu.records import Record, ShardWriter, load_manifest
from insitu.records.engines import Candidate, Detections, Pair
from insitu.synthesis import bank, boundid, runner
from insitu.synthesis.generators import WorldGenerator
from insitu.synthesis.runner import Engine, Job, Verdict
from pipelines import _engines, detections
from tests.synthesis import toy

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
TWO, ONE = (Engine(kind="ray", workers=workers, threads=1) for workers in (2, 1))


@pytest.fixture(scope="module", autouse=True)
def one_cluster() -> Iterator[None]:
    """Keep the first run's cluster until the last test; its secret is not the user's."""
    shutdown = ray.shutdown
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        patch.setattr(ray, "shutdown", lambda: None)
        yield
    shutdown()


def test_ray_makes_the_same_files_with_one_load_for_each_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, made = (tmp_path / name for name in ("here", "there", "made"))
    made.mkdir()
    toy.make(here)
    # Workers find this module wherever the run was started from.
    monkeypatch.chdir(tmp_path)
    manifest = toy.make(Path("there"), toy.job(partial(toy.noting, made)), engine=TWO)
    assert len(manifest.set_aside) == len(toy.POISONED)
    assert toy.content(there / "halves") == toy.content(here / "halves")
    processes = [path.name.partition("-")[0] for path in made.iterdir()]
    assert len(set(processes)) == len(processes) == 2
    assert str(os.getpid()) not in processes


def test_an_error_there_is_the_error_that_it_would_be_here(tmp_path: Path) -> None:
    def no_model() -> Any:
        raise UserError("The model is gone.", "There is no such folder.", "Build it.")

    with pytest.raises(UserError) as stopped:
        toy.make(tmp_path, toy.job(no_model), shards=2, engine=ONE)
    error = stopped.value
    assert type(error) is UserError and str(error) == f"{error.given} {error.why} {error.todo}"
    assert error.given == "The model is gone." and not (tmp_path / "halves").exists()


def write(folder: Path, record_type: type[Record], job: Job[Any, Any], engine: Engine) -> None:
    writer: ShardWriter[Any] = ShardWriter(folder, record_type, "inputs")
    runner.run(job, writer, 3, engine)
    writer.finish(3)


def drawn() -> boundid.Candidates:
    return boundid.Candidates(WorldGenerator(size=64, rates={"missing": 0.3}, degraded=0.3))


def pairs(shard: int) -> Iterator[Pair]:
    own = bank.WorldBank(identities=8, size=64, seed=0, shares=(0.0, 0.0))
    yield from bank.pairs(own, range(2 * shard, 2 * shard + 2), seed=0)


def test_models_there_say_what_they_say_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(toy.REPOSITORY)  # where the checkpoints' paths start
    candidates = tmp_path / "candidates"
    draw: Job[Any, Any] = Job(make=drawn, rows=pairs, name=str, batch=2)
    write(candidates, Candidate, draw, Engine())
    params = load().model_copy(update={"device": "cpu"})
    look: Job[Any, Any] = Job(
        make=partial(detections._worker, params),
        rows=partial(_engines.rows_of, candidates, Candidate),
        name=str,
        batch=2,
    )
    for name, engine in (("here", Engine()), ("there", ONE)):
        write(tmp_path / name, Detections, look, engine)
    assert load_manifest(tmp_path / "here").rows == 6
    assert toy.content(tmp_path / "there") == toy.content(tmp_path / "here")


def test_verdicts_survive_the_way() -> None:
    verdict = Verdict(record=toy.Half(id="a", half=0.5), filter="fives", score=1.0, reason="so")
    assert ray.cloudpickle.loads(ray.cloudpickle.dumps(verdict)) == verdict
