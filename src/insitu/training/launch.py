"""Starting the processes of a run, on one node or on several.

python -m insitu.training.launch JOB.json     # this node joins a run that another began
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from insitu.errors import UserError
from insitu.processes import PARENT
from insitu.training.job import JOB, REFUSAL, Job


def launch(job: Job) -> None:
    """Run a job on all its devices, and wait for its end.

    One process that dies ends all of them; the next call continues from the last checkpoint. With
    several nodes it waits for the others to join, which have the same folder.

    Raises:
        UserError: a process refused something, in its words; or one of them died.
    """
    path = Path(job.work) / JOB
    job.write(path)
    (path.parent / REFUSAL).unlink(missing_ok=True)
    if job.devices.nodes > 1:
        print(
            f"waiting for {job.devices.nodes - 1} more nodes at {job.devices.rendezvous}; on each,"
            f" in the same folder: python -m insitu.training.launch {path}",
            flush=True,
        )
    join(job)


def join(job: Job) -> None:
    """Run this node's part of a job; what it raises is as of `launch`."""
    work, several = Path(job.work), job.devices.nodes > 1
    config = LaunchConfig(
        min_nodes=job.devices.nodes, max_nodes=job.devices.nodes,
        nproc_per_node=job.devices.count, run_id=work.name, max_restarts=0,
        rdzv_backend="c10d",
        rdzv_endpoint=str(job.devices.rendezvous) if several else "localhost:0",
        local_addr=None if several else "localhost", logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=10,
    )  # fmt: skip
    command = ("-m", "insitu.training.job", str(work / JOB))
    try:
        with _environment(PARENT, str(os.getpid())):
            elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        refusal = work / REFUSAL
        if refusal.exists():
            raise UserError(**json.loads(refusal.read_text())) from None
        rank, failure = error.get_first_failure()
        end = failure.signal_name() if failure.exitcode < 0 else f"exit status {failure.exitcode}"
        raise UserError(
            f"{job.devices.ranks} processes trained {job.method}.",
            f"The process of rank {rank} ended with {end}, and the others cannot go on without it."
            + (" SIGKILL often is the kernel's, for want of memory." if end == "SIGKILL" else ""),
            "Look at its last lines above; the same command continues from the last checkpoint"
            f" in {work}.",
        ) from None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


if __name__ == "__main__":
    try:
        join(Job.read(Path(sys.argv[1])))
    except UserError as error:
        sys.exit(str(error))
