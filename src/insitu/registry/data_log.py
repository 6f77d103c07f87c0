"""Data sets in MLflow: a run for each version, with the data set as its input."""

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from pydantic import ValidationError

from insitu.errors import UserError
from insitu.records import Manifest
from insitu.records.manifest import MANIFEST
from insitu.registry.data_sets import recorded_by, total, uncommitted
from insitu.registry.dvc_lock import DATA, LOCK, written
from insitu.registry.repository import Repository
from insitu.registry.store import Store

CARD, FUNNEL = "README.md", "funnel.png"
NAME, DIGEST, VERSION = "data.name", "data.digest", "data.version"


@dataclass(frozen=True, kw_only=True)
class Logged:
    """A data set's run in MLflow; `new` if it was not there before."""

    run_id: str
    md5: str
    new: bool


def log(repository: Repository, store: Store, name: str, version: str | None = None) -> Logged:
    """Log a data set to MLflow, once: the present version, or the one that a tag names.

    The run has the data set as its input, the numbers of its funnel, its card and its funnel's
    picture, all of them as they were at the commit.

    Raises:
        UserError: there is no such data set or tag, dvc.lock is not committed, or DVC's cache does
            not hold the version.
    """
    rev = f"{DATA}{name}/{version}" if version else "HEAD"
    if version and rev not in repository.tags(rev):
        raise UserError(
            f"The version {version} of the data set {name} was to be logged.",
            f"There is no tag {rev}.",
            "`insitu data list` shows the names; `insitu data tag` makes one.",
        )
    stage, md5 = recorded_by(repository, name, rev)
    if version is None and written(repository.lock()).get(DATA + name) != md5:
        raise uncommitted(name, LOCK)
    facts = {NAME: name, DIGEST: md5}
    run_id = store.find_run(facts)
    new = run_id is None
    if run_id is None:
        commit = repository.commit(rev)
        files = _files(repository, name, stage, commit)
        tags = facts | {"mlflow.source.git.commit": commit}
        run_id = store.start_run(f"data {name}", tags)
        try:
            _fill(store, run_id, _input(repository, name, md5, commit), files)
        except BaseException:
            store.client.set_terminated(run_id, "FAILED")
            raise
        store.client.set_terminated(run_id)
    if version:
        store.client.set_tag(run_id, VERSION, version)
    return Logged(run_id=run_id, md5=md5, new=new)


def _files(repository: Repository, name: str, stage: str, commit: str) -> dict[str, bytes]:
    """Manifests, card, funnel's picture and numbers, as they were at the commit."""
    from dvc.api import DVCFileSystem  # here, since importing it takes a second

    recorded = repository.lock(commit)[stage]
    root = DATA + name
    try:
        files = DVCFileSystem(str(repository.root), rev=commit)
        wanted = [f"{root}/{CARD}", f"{root}/{MANIFEST}", *files.glob(f"{root}/*/{MANIFEST}")]
        for out, md5 in recorded.outs.items():
            if not out.startswith(DATA):
                wanted += [f"{out}/{FUNNEL}"] if md5.endswith(".dir") else [out]
        found = {path: files.read_bytes(path) for path in wanted if files.isfile(path)}
    except Exception as error:
        why = str(error).splitlines()[0] if str(error) else repr(error)
        raise _unreadable(name, stage, commit, f"DVC cannot read it: {why}") from None
    if not _manifests(found):
        why = f"DVC's cache has no {MANIFEST} of rows for it"
        raise _unreadable(name, stage, commit, why)
    return found


def _manifests(files: Mapping[str, bytes]) -> list[Manifest]:
    found = [content for path, content in files.items() if Path(path).name == MANIFEST]
    try:
        return [Manifest.model_validate_json(content) for content in found]
    except ValidationError:  # of something else, such as adapters
        return []


def _unreadable(name: str, stage: str, commit: str, why: str) -> UserError:
    return UserError(
        f"The data set {name} was to be logged as it was at {commit[:12]}.",
        f"{why}.",
        f"Fetch it from where it was pushed: git checkout {commit[:12]} && dvc fetch {stage}.",
    )


def _input(repository: Repository, name: str, md5: str, commit: str) -> Dataset:
    # MLflow's source type `code`: read back with mlflow.data.get_source, whose tags these are.
    source = {
        "mlflow.source.git.repoURL": repository.address(),
        "mlflow.source.git.commit": commit,
        "path": DATA + name,
        "get": repository.get_command(DATA + name, commit),
    }
    return Dataset(name, md5, source_type="code", source=json.dumps({"tags": source}))


def _fill(store: Store, run_id: str, dataset: Dataset, files: Mapping[str, bytes]) -> None:
    context = [InputTag("mlflow.data.context", "data")]
    store.client.log_inputs(run_id, [DatasetInput(dataset=dataset, tags=context)])
    now = int(time.time() * 1000)
    values = _metrics(files)
    metrics = [Metric(key, float(value), now, 0) for key, value in values.items()]
    store.client.log_batch(run_id, metrics=metrics)
    with tempfile.TemporaryDirectory() as folder:
        for path, content in files.items():
            file = Path(folder) / Path(path).name
            if file.name in (CARD, FUNNEL):
                file.write_bytes(content)
                store.client.log_artifact(run_id, str(file))


def _metrics(files: Mapping[str, bytes]) -> dict[str, float]:
    """Counts of the manifests; and the funnel's steps, numbered in their order, if a report has."""
    values: dict[str, float] = dict(total(_manifests(files)))
    for path, content in files.items():
        if path.endswith(".json") and Path(path).name != MANIFEST:
            figures: Any = json.loads(content)
            funnel = figures.get("funnel", {}) if isinstance(figures, dict) else {}
            for number, (step, left) in enumerate(funnel.items()):
                values[f"funnel/{number} {step}"] = left
    return values
