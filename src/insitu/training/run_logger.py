"""MLflow runs of training: one a subject under one a way of tuning, continued when that is.

A run has one history, however often it was interrupted: what the server knows of a step is not
sent again when the step is taken again.
"""

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.system_metrics import system_metrics_monitor as system
from mlflow.system_metrics.metrics import gpu_monitor as gpu
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID as PARENT

from insitu.registry.store import Store

BATCH = 200
"""Metrics a request; the server takes 1,000 at most."""
EVERY_S = 10.0
"""Least seconds between requests, and between looks at the machine."""
RUN_ID = "mlflow-run-id"


@contextmanager
def parent_run(store: Store, name: str, tags: Mapping[str, str]) -> Iterator[str]:
    """The run with these tags, continued or started; its end is told with its outcome."""
    run_id = store.find_run(tags, finished=False) or store.start_run(name, tags)
    with _told(store.client, run_id):
        yield run_id


class RunLogger(Logger):
    """Lightning's logger for a run whose id is kept in the work folder.

    A server that goes away while training goes on is warned of, and gets everything later.

    Args:
        store: the server.
        name: the run's name, the subject's.
        tags: facts by which the run is found.
        run_id: of a run that another process holds.
        parent: the run that this one is shown under.
        clock: seconds, of any origin.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        tags: Mapping[str, str] | None = None,
        *,
        run_id: str | None = None,
        parent: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.store, self.run_name, self.tags = store, name, dict(tags or {})
        if parent is not None:
            self.tags[PARENT] = parent
        self.run_id, self.clock = run_id, clock
        self._waiting: list[Metric] = []
        self._known: dict[str, int] | None = None
        self._sent = clock()
        self._checkpointed = False

    @property
    def client(self) -> MlflowClient:
        return self.store.client

    @contextmanager
    def running(self, work: Path) -> Iterator[str]:
        """Hold the work folder's run, continued or started, and watch the machine meanwhile.

        It ends as FINISHED, FAILED or, interrupted, KILLED.
        """
        run_id = self.open(work)
        with _told(self.client, run_id), _watched(self.store.uri, run_id):
            yield run_id
            self.send()

    def open(self, work: Path) -> str:
        """Continue the work folder's run, or start one; its id."""
        kept = work / RUN_ID
        if kept.exists() and self.store.has_run(kept.read_text()):
            self.run_id = kept.read_text()
            for key, value in self.tags.items():
                self.client.set_tag(self.run_id, key, value)
        else:
            self.run_id = self.store.start_run(self.run_name, self.tags)
            kept.write_text(self.run_id)
        return self.run_id

    @property
    def name(self) -> str:
        return self.run_name

    @property
    def version(self) -> str:
        return self.run_id or ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: what decides a run is told by `tell`, before Lightning starts."""

    def tell(self, settings: Mapping[str, Any]) -> None:
        """Note the settings that decide the run; the server refuses to change them later."""
        assert self.run_id is not None
        values = [Param(key, str(value)[:500]) for key, value in settings.items()]
        self.client.log_batch(self.run_id, params=values)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep figures of the step of this number, from 0; the server has how many were taken."""
        assert step is not None
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(key, float(value), now, step + 1)
            for key, value in metrics.items()
            if key != "epoch"
        ]

    def save(self) -> None:
        """Send what is waiting when there is enough, or for long enough; Lightning asks often."""
        due = self.clock() - self._sent >= EVERY_S or len(self._waiting) >= BATCH
        if due or self._checkpointed:
            self._try("metrics", self.send)

    def before_checkpoint(self) -> None:
        """Send what is waiting: steps before a checkpoint are not taken again.

        Its own step's losses come just after it, and are sent at once.
        """
        self._try("metrics", self.send)
        self._checkpointed = True

    def send(self) -> None:
        """Send what is waiting, apart from what the server knows; raises what the client does."""
        assert self.run_id is not None
        self._sent, self._checkpointed = self.clock(), False
        if self._known is None:
            self._known = last_steps(self.client, self.run_id)
        fresh = [m for m in self._waiting if m.step > self._known.get(m.key, -1)]
        for start in range(0, len(fresh), BATCH):
            self.client.log_batch(self.run_id, metrics=fresh[start : start + BATCH])
        self._waiting = []

    def keep_picture(self, path: Path) -> None:
        """Show a picture beside the run's curves."""
        run_id = str(self.run_id)
        self._try(path.name, lambda: self.client.log_artifact(run_id, str(path), "pictures"))

    def finalize(self, status: str) -> None:
        self._try("metrics", self.send)

    def _try(self, what: str, send: Callable[[], None]) -> None:
        try:
            send()
        except MlflowException as error:
            first = str(error).splitlines()[0][:160]
            warnings.warn(
                f"MLflow did not take the {what}, and training goes on: {first}", stacklevel=1
            )


def last_steps(client: MlflowClient, run_id: str) -> dict[str, int]:
    """The last step that the server knows of each metric of training."""
    names = [key for key in client.get_run(run_id).data.metrics if not key.startswith("system/")]
    return {key: max(m.step for m in client.get_metric_history(run_id, key)) for key in names}


@contextmanager
def _told(client: MlflowClient, run_id: str) -> Iterator[None]:
    """A run is RUNNING within, and then what became of it."""
    client.update_run(run_id, status="RUNNING")
    try:
        yield
    except BaseException as error:
        try:
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        except MlflowException:
            warnings.warn(f"MLflow was not told that run {run_id} failed.", stacklevel=1)
        raise
    client.set_terminated(run_id, "FINISHED")


@contextmanager
def _watched(uri: str, run_id: str) -> Iterator[None]:
    """MLflow's own look at processors, memory, disk, network, and GPUs where a driver tells."""
    logging.getLogger(system.__name__).setLevel(logging.WARNING)
    once = _Once()
    logging.getLogger(gpu.__name__).addFilter(once)
    monitor = system.SystemMetricsMonitor(
        run_id, sampling_interval=EVERY_S, resume_logging=True, tracking_uri=uri
    )
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
        logging.getLogger(gpu.__name__).removeFilter(once)


class _Once(logging.Filter):
    """Each message once: what a GPU cannot tell (one in MIG mode its load) it never can."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        fresh = message not in self._said
        self._said.add(message)
        return fresh
