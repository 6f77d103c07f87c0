"""Adapters in MLflow: registered once, found by alias, promoted and rolled back.

One registered model a subject, `<method>.<subject>`; a version is an adapter package, kept as the
artifact of a run. Aliases are `candidate` and `champion`; what was champion before stands in a tag,
so that rolling back is one step.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from insitu.errors import UserError
from insitu.registry.gate import Thresholds, Verdict, decide
from insitu.registry.package import Package

CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST, FIGURES, PREVIOUS, VERDICT = "digest", "figures", "previous_champion", "gate"
DATA = "data."
"""Of a version's tags: what follows is a data set's name, the value DVC's hash of it."""
ARTIFACT = "adapter"
EXPERIMENT = "insitu"
PAGE = 500
"""Registered models that are asked for at once."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered adapter; `data` has DVC's hash of each data set behind it, by name."""

    name: str
    version: str
    digest: str
    aliases: tuple[str, ...]
    figures: Mapping[str, Any]
    run_id: str
    data: Mapping[str, str]


class Store:
    """The registry behind one MLflow server."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client, self.uri = client, uri

    @classmethod
    def connect(cls, uri: str) -> Self:
        """Reach the server.

        Raises:
            UserError: it does not answer.
        """
        # Its own patience is minutes of retries with growing pauses.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        try:
            client.search_experiments(max_results=1)
        except MlflowException as error:
            first = str(error).splitlines()[0][:160]
            raise UserError(
                f"The MLflow server at {uri} was to be used.",
                f"It does not answer: {first}",
                "Start it (insitu mlflow), or correct `registry.tracking_uri` in params.yaml.",
            ) from None
        return cls(client, uri)

    def register(
        self, package: Package, figures: Mapping[str, Any], data: Mapping[str, str] = {}
    ) -> Entry:
        """Register a package, once: the same digest again is the version that is already there.

        New ones become `candidate`; figures, and where its data is, are brought up to date.

        Args:
            data: DVC's hash of each data set that it was tuned on, by the data set's name.
        """
        name = f"{package.card.method}.{package.card.subject}"
        known = {entry.digest: entry for entry in self.versions(name)}
        if package.digest not in known:
            self._create_model(name, package)
            run_id = self._run_of(package)
            self.client.log_artifacts(run_id, str(package.folder), ARTIFACT)
            self.client.set_terminated(run_id)
            created = self.client.create_model_version(
                name, f"runs:/{run_id}/{ARTIFACT}", run_id, tags={DIGEST: package.digest}
            )
            version = str(created.version)
        else:
            version = known[package.digest].version
        self.client.set_model_version_tag(name, version, FIGURES, json.dumps(figures))
        for dataset, md5 in data.items():
            self.client.set_model_version_tag(name, version, DATA + dataset, md5)
        if CHAMPION not in self.entry(name, version).aliases:
            self.client.set_registered_model_alias(name, CANDIDATE, version)
        return self.entry(name, version)

    def entry(self, name: str, version_or_alias: str) -> Entry:
        """One version, by its number or by an alias.

        Raises:
            UserError: there is no such model, version or alias.
        """
        entries = self.versions(name)
        for entry in entries:
            if version_or_alias == entry.version or version_or_alias in entry.aliases:
                return entry
        there = ", ".join(
            f"{e.version} ({', '.join(e.aliases)})" if e.aliases else e.version for e in entries
        )
        raise UserError(
            f"{name}, {version_or_alias} was asked for.",
            f"There is no such version or alias; there are: {there or 'none'}.",
            "`insitu registry list` shows what is registered.",
        )

    def versions(self, name: str) -> list[Entry]:
        """All versions of a model, oldest first; none if there is no such model."""
        found = self.client.search_model_versions(f"name = '{name}'")
        aliases = self._aliases(name) if found else {}
        entries = [_entry(version, aliases) for version in found]
        return sorted(entries, key=lambda entry: int(entry.version))

    def names(self) -> list[str]:
        """Every registered model of ours."""
        return sorted(model.name for model in self._models())

    def candidates(self) -> list[str]:
        """The names whose newest version waits for the gate, or was stopped by it."""
        return sorted(model.name for model in self._models() if CANDIDATE in model.aliases)

    def _models(self) -> Iterator[RegisteredModel]:
        """Those that have our tag, however many: the server gives out pages."""
        token = None
        while True:
            page = self.client.search_registered_models(
                "tags.method LIKE '%'", max_results=PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def promote(self, name: str, version: str, thresholds: Thresholds) -> Verdict:
        """Make a version champion if the gate lets it; the verdict is kept on the version."""
        entry = self.entry(name, version)
        champion = next((e for e in self.versions(name) if CHAMPION in e.aliases), None)
        if champion is not None and champion.version == entry.version:
            return Verdict(passed=True, reasons=("it is the champion already",))
        verdict = decide(entry.figures, champion.figures if champion else None, thresholds)
        text = json.dumps({"passed": verdict.passed, "reasons": verdict.reasons})
        self.client.set_model_version_tag(name, entry.version, VERDICT, text)
        if verdict.passed:
            before = champion.version if champion else ""
            self.client.set_model_version_tag(name, entry.version, PREVIOUS, before)
            self.client.set_registered_model_alias(name, CHAMPION, entry.version)
            if CANDIDATE in entry.aliases:
                self.client.delete_registered_model_alias(name, CANDIDATE)
        return verdict

    def verdict(self, entry: Entry) -> dict[str, Any] | None:
        """What the gate said of a version; None where it was not asked."""
        text = self.client.get_model_version(entry.name, entry.version).tags.get(VERDICT)
        return json.loads(text) if text else None

    def rollback(self, name: str) -> Entry:
        """Make the version champion that was it before.

        Raises:
            UserError: there is no champion, or none before it.
        """
        champion = self.entry(name, CHAMPION)
        tags = self.client.get_model_version(name, champion.version).tags
        before = tags.get(PREVIOUS, "")
        if not before:
            raise UserError(
                f"{name} was to be rolled back from version {champion.version}.",
                "No version was champion before it.",
                "Promote another version: insitu registry promote.",
            )
        self.client.set_registered_model_alias(name, CHAMPION, before)
        return self.entry(name, before)

    def fetch(self, entry: Entry, folder: Path) -> Package:
        """Download a version's package into `folder` and verify it.

        Raises:
            UserError: it cannot be had, or is not the package that was registered.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            path = Path(self.client.download_artifacts(entry.run_id, ARTIFACT, str(folder)))
        except (MlflowException, OSError) as error:
            first = (str(error).splitlines() or [repr(error)])[0][:160]
            raise UserError(
                f"{entry.name}, version {entry.version} was to be downloaded.",
                f"It cannot be had: {first}",
                "See that MLflow's store of artifacts answers and has it, or register it again.",
            ) from None
        package = Package.open(path)
        if package.digest != entry.digest:
            raise UserError(
                f"{entry.name}, version {entry.version} was downloaded.",
                f"Its package has the digest {package.digest[:12]}, registered was "
                f"{entry.digest[:12]}: it was exchanged.",
                "Register the adapter again.",
            )
        return package

    def _create_model(self, name: str, package: Package) -> None:
        tags = {"method": package.card.method, "subject": str(package.card.subject)}
        try:
            self.client.create_registered_model(name, tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

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

    def _run_of(self, package: Package) -> str:
        """The run that trained the package, or a new one where another server has that."""
        trained = package.run().get("run_id")
        if trained and self.has_run(trained):
            return str(trained)
        tags = {
            "base": package.card.base.weights_digest,
            "data": package.card.data_digest,
        }
        return self.start_run(str(package.card.subject), tags)

    def _create_experiment(self) -> str:
        try:
            return str(self.client.create_experiment(EXPERIMENT))
        except MlflowException:  # another process was faster
            found = self.client.get_experiment_by_name(EXPERIMENT)
            assert found is not None
            return str(found.experiment_id)

    def _aliases(self, name: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for alias, version in self.client.get_registered_model(name).aliases.items():
            found.setdefault(str(version), []).append(alias)
        return found


def _entry(version: ModelVersion, aliases: Mapping[str, list[str]]) -> Entry:
    tags = version.tags
    return Entry(
        name=version.name,
        version=str(version.version),
        digest=tags.get(DIGEST, ""),
        aliases=tuple(sorted(aliases.get(str(version.version), []))),
        figures=json.loads(tags.get(FIGURES, "{}")),
        run_id=str(version.run_id),
        data={key.removeprefix(DATA): tags[key] for key in sorted(tags) if key.startswith(DATA)},
    )
