"""Runs a stage's class over the shards that are still missing: in process, or on Ray.

The class loads its models when it is made, once for each worker, and is then called with the rows
of one batch after another. Output shard i comes from input shard i alone, so shards may be made in
any order, by any number of workers, in runs that are killed and started again: the manifest is the
same.
"""

import itertools
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from insitu.errors import UserError
from insitu.files import adopt
from insitu.records import Manifest, OpenShard, Record, ShardWriter, load_manifest
from insitu.work import ROOT, work_folder

LOG = logging.getLogger(__name__)
In = TypeVar("In")
In_contra = TypeVar("In_contra", contravariant=True)
Out = TypeVar("Out", bound=Record)
Out_co = TypeVar("Out_co", bound=Record, covariant=True)


@dataclass(frozen=True, kw_only=True)
class Verdict(Generic[Out_co]):
    """A record, and the filter that refused it, with its score and reason; None = it is kept."""

    record: Out_co
    filter: str | None = None
    score: float = 0.0
    reason: str = ""


class Worker(Protocol[In_contra, Out_co]):
    """A stage's class: verdicts of a batch of rows, none, one or several of each row."""

    def __call__(self, rows: Sequence[In_contra], /) -> Iterable[Verdict[Out_co]]: ...


@dataclass(frozen=True, kw_only=True)
class Job(Generic[In, Out]):
    """What a stage does. Everything in it can be pickled, for workers elsewhere.

    Attributes:
        make: loads the models.
        rows: the input rows of a shard, by its index, streamed.
        name: the id of an input row, for what is set aside.
        batch: rows that are handed over at once; bounds memory.
    """

    make: Callable[[], Worker[In, Out]]
    rows: Callable[[int], Iterable[In]]
    name: Callable[[In], str]
    batch: int


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Where workers run.

    Attributes:
        kind: `local` = one worker in this process; `ray` = `workers` of them on a Ray cluster: the
            one that RAY_ADDRESS names, whose machines share this folder, or one of this machine's
            own.
        threads: of each worker. Rounding depends on them, so both kinds keep to the number.
    """

    kind: Literal["local", "ray"] = "local"
    workers: int = 1
    threads: int = 1


def produce(
    job: Job[In, Out],
    target: Path,
    record_type: type[Out],
    *,
    input_digest: str,
    code: str,
    shards: int,
    engine: Engine,
    finish: Callable[[Path], None] = lambda folder: None,
    root: Path = ROOT,
) -> Manifest:
    """Make the shards of a data set and put them in the place of `target`, whole.

    Args:
        input_digest: of inputs, settings, models and the cut into shards; stands in the manifest.
        code: digest of the code; what other code began is not continued.
        finish: adds files beside the shards (a data card) before the folder is published.

    Raises:
        UserError: another process makes it; or no row of some shard could be made.
    """
    with work_folder(target.name, f"{input_digest[:16]}{code[:16]}", root=root) as work:
        folder = work / "shards"
        writer = ShardWriter(folder, record_type, input_digest)
        run(job, writer, shards, engine)
        manifest = writer.finish(shards)
        finish(folder)
        adopt(folder, target)
    return manifest


def run(job: Job[In, Out], writer: ShardWriter[Out], shards: int, engine: Engine) -> None:
    """Write the missing ones of the shards 0 .. shards - 1."""
    missing = [] if writer.finished else writer.missing(shards)
    if not missing:
        return
    if engine.kind == "ray":
        _on_ray(job, writer, missing, engine)
        return
    set_threads(engine.threads)
    worker = job.make()
    for done, index in enumerate(missing, start=shards - len(missing) + 1):
        write_shard(worker, job, writer, index)
        LOG.info("shard %d of %d", done, shards)


def write_shard(
    worker: Worker[In, Out], job: Job[In, Out], writer: ShardWriter[Out], index: int
) -> None:
    """One shard, from its input rows; rows of which nothing can be made are set aside.

    Raises:
        UserError: none of its rows could be made: then it is not the rows that are at fault.
    """
    rows, failed = 0, 0
    with writer.shard(index) as shard:
        for batch in batched(job.rows(index), job.batch):
            rows += len(batch)
            failed += _judge(worker, job, batch, shard)
        if rows and rows == failed:
            raise UserError(
                f"Shard {index} of {rows} rows was to be made.",
                f"Every one of them failed, the last one with: {shard.last_error}",
                "Mend what is wrong with the model, the settings or the code, and run it again.",
            )


def _judge(
    worker: Worker[In, Out], job: Job[In, Out], batch: list[In], shard: OpenShard[Out]
) -> int:
    """Put the verdicts of a batch into its shard; the number of rows set aside."""
    failed = 0
    try:
        verdicts = list(worker(batch))
    except Exception:  # whatever it is, it is about some row, and its neighbours must not suffer
        LOG.warning("a batch failed, its rows are tried one by one", exc_info=True)
        verdicts = []
        for row in batch:
            try:
                verdicts += list(worker([row]))  # all of them, or none when it fails midway
            except Exception as error:
                shard.set_aside(job.name(row), f"{type(error).__name__}: {error}")
                failed += 1
    for verdict in verdicts:
        if verdict.filter is None:
            shard.keep(verdict.record)
        else:
            shard.reject(
                verdict.record,
                filter=verdict.filter,
                score=verdict.score,
                reason=verdict.reason,
            )
    return failed


def batched(rows: Iterable[In], size: int) -> Iterator[list[In]]:
    """Lists of `size` rows, the last one shorter, without reading ahead."""
    ahead = iter(rows)
    while batch := list(itertools.islice(ahead, size)):
        yield batch


def set_threads(count: int) -> None:
    """Let every library that computes use this many threads."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _on_ray(
    job: Job[In, Out], writer: ShardWriter[Out], missing: Sequence[int], engine: Engine
) -> None:
    # Read when ray is imported: report to nobody; a cluster of one's own listens to nobody else.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    elsewhere = bool(os.environ.get("RAY_ADDRESS"))
    if not elsewhere:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray
    from ray import cloudpickle
    from ray.exceptions import RayTaskError
    from ray.util import ActorPool

    started = not ray.is_initialized()
    if started:
        # A cluster of this machine's own has as many slots as workers are asked for.
        slots = engine.workers * engine.threads
        own: dict[str, Any] = {"address": "local", "num_cpus": slots, "include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **({} if elsewhere else own))
    try:
        actor = ray.remote(num_cpus=engine.threads)(_Actor)
        sent = cloudpickle.dumps((job, writer))
        here = (str(Path.cwd()), [path or "." for path in sys.path])
        workers = [actor.remote(sent, engine.threads, *here) for _ in range(engine.workers)]
        pool = ActorPool(workers)
        for index in pool.map_unordered(lambda a, index: a.write.remote(index), list(missing)):
            LOG.info("shard %d is done", index)
    except RayTaskError as error:  # what a worker raised, as it would have been raised here
        raise error.cause from error
    finally:
        if started:
            ray.shutdown()


class _Actor:
    """A worker of a Ray cluster, in the folder and with the modules of the process that asks.

    What is to be done comes pickled, since only then can its modules be found.
    """

    def __init__(self, sent: bytes, threads: int, folder: str, modules: Sequence[str]) -> None:
        os.chdir(folder)
        sys.path += [path for path in modules if path not in sys.path]
        set_threads(threads)
        self._job, self._writer = pickle.loads(sent)
        self._worker: Worker[Any, Any] | None = None

    def write(self, index: int) -> int:
        if self._worker is None:  # not in __init__, whose errors Ray does not hand on
            self._worker = self._job.make()
        write_shard(self._worker, self._job, self._writer, index)
        return index


def shard_count(folder: Path) -> int:
    """How many shards a finished folder has."""
    return len(load_manifest(folder).shards)
