"""An MLflow server, and the runs on it that are ours."""

import os
from collections.abc import Mapping
from typing import Self

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from insitu.errors import UserError
from insitu.registry.signature import Keys

EXPERIMENT = "insitu"
NO_KEYS = Keys()


class Unreachable(UserError):
    """The server, or where it keeps its artifacts, does not answer."""


class Server:
    """One MLflow server; `keys` sign and check packages."""

    def __init__(self, client: MlflowClient, uri: str, keys: Keys = NO_KEYS) -> None:
        self.client, self.uri, self.keys = client, uri, keys

    @classmethod
    def connect(cls, uri: str, keys: Keys = NO_KEYS) -> Self:
        """Reach the server.

        Raises:
            Unreachable: it does not answer.
        """
        # Its own patience is minutes of retries with growing pauses.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            first = str(error).splitlines()[0][:160]
            raise Unreachable(
                f"The MLflow server at {uri} was to be used.",
                f"It does not answer: {first}",
                "Start it (insitu mlflow), or correct `registry.tracking_uri` in params.yaml.",
            ) from None
        return cls(client, uri, keys)

    def start_run(self, name: str, tags: Mapping[str, str]) -> str:
        """Start a run in our experiment; its id."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else self._create_experiment()
        run = self.client.create_run(number, tags=dict(tags), run_name=name)
        return str(run.info.run_id)

    def address(self, run_id: str) -> str:
        """Of the page that shows a run."""
        experiment = self.client.get_run(run_id).info.experiment_id
        return f"{self.uri}/#/experiments/{experiment}/runs/{run_id}"

    def has_run(self, run_id: str) -> bool:
        """This server knows the run, and it was not deleted."""
        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except MlflowException:
            return False

    def find_run(self, tags: Mapping[str, str], *, finished: bool = True) -> str | None:
        """The newest run of our experiment that has these tags; unfinished ones where asked."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        asked = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
        if finished:
            asked.insert(0, "attributes.status = 'FINISHED'")
        found = self.client.search_runs(
            [experiment.experiment_id], " and ".join(asked), max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _create_experiment(self) -> str:
        try:
            return str(self.client.create_experiment(EXPERIMENT))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(EXPERIMENT)
            assert found is not None
            return str(found.experiment_id)
