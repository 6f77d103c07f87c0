"""Adapters in MLflow: registered once, found by alias, promoted and rolled back.

One registered model a method, and one a subject, `<method>.<subject>`; a version is an adapter
package, kept as the artifact of a run. Aliases are `candidate` and `champion`; what was champion
before stands in a tag, so that rolling back is one step. Who may become champion the gate says.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from insitu.errors import UserError
from insitu.registry import readme
from insitu.registry.package import Package
from insitu.registry.readme import README
from insitu.registry.server import Server, Unreachable
from insitu.registry.verdict import Verdict

CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST, FIGURES, PREVIOUS, VERDICT = "digest", "figures", "previous_champion", "gate"
BENCHMARK = "benchmark"
"""Of a version's tags: the digest of the one that it was measured on last."""
DATA = "data."
"""Of a version's tags: what follows is a data set's name, the value DVC's hash of it."""
ARTIFACT, MEASUREMENTS = "adapter", "measurements"
PAGE = 500
"""Registered models that are asked for at once."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One registered adapter.

    Attributes:
        figures: of the last measurement, a summary for people.
        benchmark: the digest of that one's benchmark; empty if it was not measured.
        data: DVC's hash of each data set behind it, by name.
        judged: the gate let it through, or did not, or was not asked (None).
    """

    name: str
    version: str
    digest: str
    aliases: tuple[str, ...]
    figures: Mapping[str, Any]
    run_id: str
    data: Mapping[str, str]
    benchmark: str = ""
    judged: bool | None = None


class NotRegistered(UserError):
    """There is no such name, version or alias."""


class Store(Server):
    """The registry behind one MLflow server."""

    def register(
        self, package: Package, figures: Mapping[str, Any], data: Mapping[str, str] = {}
    ) -> Entry:
        """Register a package, once: the same digest again is the version that is already there.

        New ones become `candidate`; figures, where its data is, and its signature are brought up
        to date.

        Args:
            data: DVC's hash of each data set that it was tuned on, by the data set's name.
        """
        name = package.name
        known = {entry.digest: entry for entry in self.versions(name)}
        if package.digest not in known:
            self._create_model(name, package)
            run_id = self._run_of(package)
            self.client.log_artifacts(run_id, str(package.folder), ARTIFACT)
            self._sign(package, run_id)
            self.client.set_terminated(run_id)
            created = self.client.create_model_version(
                name, f"runs:/{run_id}/{ARTIFACT}", run_id, tags={DIGEST: package.digest}
            )
            version = str(created.version)
        else:
            version = known[package.digest].version
            self._sign(package, known[package.digest].run_id)
        entry = self.entry(name, version)
        self.client.log_text(entry.run_id, readme.text(package, figures), f"{ARTIFACT}/{README}")
        self.client.set_model_version_tag(name, version, FIGURES, json.dumps(figures))
        for dataset, md5 in data.items():
            self.client.set_model_version_tag(name, version, DATA + dataset, md5)
        if CHAMPION not in entry.aliases:
            self.client.set_registered_model_alias(name, CANDIDATE, version)
        return self.entry(name, version)

    def _sign(self, package: Package, run_id: str) -> None:
        if self.keys.private is None:
            return
        from insitu.registry.signature import sign

        with tempfile.TemporaryDirectory() as folder:
            signature = sign(package, self.keys.private, Path(folder))
            self.client.log_artifact(run_id, str(signature), ARTIFACT)

    def entry(self, name: str, version_or_alias: str) -> Entry:
        """One version, by its number or by an alias.

        Raises:
            NotRegistered: there is no such model, version or alias.
        """
        entries = self.versions(name)
        for entry in entries:
            if version_or_alias == entry.version or version_or_alias in entry.aliases:
                return entry
        there = ", ".join(
            f"{e.version} ({', '.join(e.aliases)})" if e.aliases else e.version for e in entries
        )
        raise NotRegistered(
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

    def aliases(self) -> dict[str, dict[str, str]]:
        """Every registered model of ours, with the version that each of its aliases means."""
        return {
            model.name: {alias: str(version) for alias, version in model.aliases.items()}
            for model in self._models()
        }

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

    def champion(self, name: str) -> Entry | None:
        """The version that is champion, if there is one."""
        return next((e for e in self.versions(name) if CHAMPION in e.aliases), None)

    def crown(self, name: str, version: str) -> Entry:
        """Make a version champion; which one it was before is kept on it.

        Raises:
            NotRegistered: there is no such version.
        """
        entry, champion = self.entry(name, version), self.champion(name)
        if champion is not None and champion.version == entry.version:
            return entry
        before = champion.version if champion else ""
        self.client.set_model_version_tag(name, entry.version, PREVIOUS, before)
        self.client.set_registered_model_alias(name, CHAMPION, entry.version)
        if CANDIDATE in entry.aliases:
            self.client.delete_registered_model_alias(name, CANDIDATE)
        return self.entry(name, entry.version)

    def keep_measurement(self, entry: Entry, digest: str, text: str) -> None:
        """Keep what came of a version on a benchmark, beside its package."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"{digest}.json"
            file.write_text(text, encoding="utf-8")
            self.client.log_artifact(entry.run_id, str(file), MEASUREMENTS)
        self.client.set_model_version_tag(entry.name, entry.version, BENCHMARK, digest)

    def measurement(self, entry: Entry, digest: str) -> str | None:
        """What came of a version on a benchmark; None if it was not measured on it."""
        path = f"{MEASUREMENTS}/{digest}.json"
        if path not in [f.path for f in self.client.list_artifacts(entry.run_id, MEASUREMENTS)]:
            return None
        with tempfile.TemporaryDirectory() as folder:
            file = self.client.download_artifacts(entry.run_id, path, folder)
            return Path(file).read_text(encoding="utf-8")

    def keep_verdict(self, entry: Entry, verdict: Verdict) -> None:
        """Keep what the gate says on the version."""
        text = json.dumps({"passed": verdict.passed, "reasons": verdict.reasons})
        self.client.set_model_version_tag(entry.name, entry.version, VERDICT, text)

    def check(self, entry: Entry) -> None:
        """Download a version's package, and verify it. Raises as `fetch`."""
        with tempfile.TemporaryDirectory() as folder:
            self.fetch(entry, Path(folder))

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
        """Download a version's package into `folder` and verify it, and its signature if need be.

        Raises:
            Unreachable: it cannot be had.
            UserError: it is not the package that was registered, or not signed as it has to be.
        """
        folder.mkdir(parents=True, exist_ok=True)
        try:
            path = Path(self.client.download_artifacts(entry.run_id, ARTIFACT, str(folder)))
        except (MlflowException, OSError) as error:
            first = (str(error).splitlines() or [repr(error)])[0][:160]
            raise Unreachable(
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
        if self.keys.public is not None:
            from insitu.registry.signature import verify

            verify(package, self.keys.public)
        return package

    def _create_model(self, name: str, package: Package) -> None:
        subject = package.card.subject
        tags = {"method": package.card.method} | ({"subject": subject} if subject else {})
        try:
            self.client.create_registered_model(name, tags)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _run_of(self, package: Package) -> str:
        """The run that trained the package, or a new one where another server has that."""
        trained = package.run().get("run_id")
        if trained and self.has_run(trained):
            return str(trained)
        tags = {
            "base": package.card.base.weights_digest,
            "data": package.card.data_digest,
        }
        return self.start_run(package.card.subject or package.card.method, tags)

    def resolve(self, name: str, version_or_alias: str) -> Entry:
        """As `entry`, in one request: for those who ask again and again.

        Raises:
            NotRegistered: there is no such model, version or alias.
            Unreachable: the server does not answer.
        """
        try:
            if version_or_alias.isdigit():
                found = self.client.get_model_version(name, version_or_alias)
            else:
                found = self.client.get_model_version_by_alias(name, version_or_alias)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise NotRegistered(
                    f"{name}, {version_or_alias} was asked for.",
                    "There is no such version or alias.",
                    "`insitu registry list` shows what is registered.",
                ) from None
            first = str(error).splitlines()[0][:160]
            raise Unreachable(
                f"{name}, {version_or_alias} was asked for.",
                f"The MLflow server at {self.uri} does not answer: {first}",
                "Wait, and ask again; see that it runs.",
            ) from None
        return _entry(found, {str(found.version): list(found.aliases)})

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
        benchmark=tags.get(BENCHMARK, ""),
        judged=json.loads(tags[VERDICT])["passed"] if VERDICT in tags else None,
    )
