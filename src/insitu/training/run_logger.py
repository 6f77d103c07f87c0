"""One MLflow run a tuned subject, continued when the training is, written in batches."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from insitu.registry.store import Store

BATCH = 200
"""Metrics a request; the server takes 1,000 at most."""
RUN_ID = "mlflow-run-id"


class RunLogger(Logger):
    """Lightning's logger for a run whose id is kept in the work folder.

    Args:
        store: the server.
        name: the run's name, the subject's.
        tags: facts by which the run is found.
    """

    def __init__(self, store: Store, name: str, tags: Mapping[str, str]) -> None:
        super().__init__()
        self.store, self.run_name, self.tags = store, name, dict(tags)
        self.run_id: str | None = None
        self._waiting: list[Metric] = []

    @property
    def client(self) -> MlflowClient:
        return self.store.client

    def open(self, work: Path) -> str:
        """Continue the work folder's run, or start one."""
        kept = work / RUN_ID
        if kept.exists() and self.store.has_run(kept.read_text()):
            self.run_id = kept.read_text()
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
        now = int(time.time() * 1000)
        self._waiting += [
            Metric(key, float(value), now, step or 0)
            for key, value in metrics.items()
            if key != "epoch"
        ]
        if len(self._waiting) >= BATCH:
            self.save()

    def save(self) -> None:
        """Send what is waiting."""
        assert self.run_id is not None
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH):
            self.client.log_batch(self.run_id, metrics=waiting[start : start + BATCH])

    def keep_picture(self, path: Path) -> None:
        """Show a picture beside the run's curves."""
        assert self.run_id is not None
        self.client.log_artifact(self.run_id, str(path), "pictures")

    def finalize(self, status: str) -> None:
        self.save()
        ended = {"success": "FINISHED", "failed": "FAILED"}.get(status, "KILLED")
        self.client.set_terminated(str(self.run_id), ended)
