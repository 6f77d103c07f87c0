"""Data sets with versions that have names: tags in git, and what `dvc gc` would take.

A data set is a folder `data/<name>` that a DVC stage writes. Its version is DVC's hash in dvc.lock;
the git tag `data/<name>/<version>` names it, and `dvc get` fetches it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from insitu.errors import UserError
from insitu.records import Manifest, load_manifest
from insitu.records.manifest import MANIFEST
from insitu.registry.dvc_lock import DATA, LOCK, written
from insitu.registry.repository import Repository

if TYPE_CHECKING:  # importing it takes seconds
    from insitu.registry.store import Store

_WORD = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set as it lies here.

    Attributes:
        counts: what there is of it, None if it does not lie here.
        md5: DVC's hash, None if no stage recorded it.
        versions: the names that tags give to this hash.
        others: the names of other versions of it.
    """

    name: str
    counts: Mapping[str, int] | None
    md5: str | None
    versions: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Behind:
    """A data set behind a registered adapter.

    Attributes:
        adapter, version: the adapter's.
        data: the data set's name; empty if nobody recorded what is behind the adapter.
        md5: DVC's hash of it.
        kept_by: tags and branches that keep it from `dvc gc`; none, and it would go.
        commit: one whose dvc.lock has it, if there is any.
    """

    adapter: str
    version: str
    data: str = ""
    md5: str = ""
    kept_by: tuple[str, ...] = ()
    commit: str | None = None

    @property
    def todo(self) -> str:
        """What to do so that it stays."""
        if not self.data:
            return "dvc repro adapters register, if it was tuned here: that records its data"
        if self.commit is None:
            return f"git commit dvc.lock while it has this hash, then insitu data tag {self.data}"
        return f"insitu data tag {self.data} NAME --rev {self.commit[:12]}"


def data_sets(repository: Repository) -> list[DataSet]:
    """Every data set that lies in data/ or that a stage recorded."""
    outs = written(repository.lock())
    recorded = {path.removeprefix(DATA): md5 for path, md5 in outs.items() if _is_folder(path, md5)}
    folder = repository.root / DATA
    here = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    found = []
    for name in sorted(name for name in here | recorded.keys() if not name.startswith(".")):
        counts = _counts(folder / name)
        if counts is None and name in here:
            continue  # adapters: no rows
        md5 = recorded.get(name)
        names: dict[bool, list[str]] = {True: [], False: []}
        for tag in repository.tags(f"{DATA}{name}/"):
            same = written(repository.lock(tag)).get(DATA + name) == md5 is not None
            names[same].append(tag.rpartition("/")[2])
        found.append(
            DataSet(
                name=name,
                counts=counts,
                md5=md5,
                versions=tuple(names[True]),
                others=tuple(names[False]),
            )
        )
    return found


def tag(repository: Repository, name: str, version: str, rev: str | None = None) -> str:
    """Name a data set's present version, or the one that it had at `rev`: the git tag.

    The same name again for the same version is nothing new.

    Raises:
        UserError: the name is no word, or another version has it; the data set is unknown; or what
            lies here is not what was committed, to DVC and to git.
    """
    for word in (name, version):
        if not _WORD.fullmatch(word) or ".." in word or word.endswith(".lock"):
            raise UserError(
                f"The name {word!r} was given for a version of a data set.",
                "Names are letters, digits, points, hyphens and underscores, and begin and end"
                " with a letter or digit.",
                "Write for example: insitu data tag boundid v1.",
            )
    commit = repository.commit(rev or "HEAD")
    stage, md5 = recorded_by(repository, name, rev)
    full = f"{DATA}{name}/{version}"
    if repository.tags(full):
        if written(repository.lock(full)).get(DATA + name) == md5:
            return full
        raise UserError(
            f"The data set {name} was to be called {version}.",
            "Another version of it has that name, and a name that moves names nothing.",
            "Choose another name; `insitu data list` shows those there are.",
        )
    if rev is None:
        _require_clean(repository, name, stage)
    repository.add_tag(full, commit, f"Data set {name}, {version}: {md5}")
    return full


def check(repository: Repository, store: "Store") -> list[Behind]:
    """The data behind every registered adapter, and what keeps it from `dvc gc`."""
    entries = [entry for adapter in store.names() for entry in store.versions(adapter)]
    where = {
        (name, md5): _where(repository, DATA + name, md5)
        for name, md5 in sorted({pair for entry in entries for pair in entry.data.items()})
    }
    found = []
    for entry in entries:
        if not entry.data:
            found.append(Behind(adapter=entry.name, version=entry.version))
        for name, md5 in entry.data.items():
            holders, commit = where[name, md5]
            found.append(
                Behind(
                    adapter=entry.name,
                    version=entry.version,
                    data=name,
                    md5=md5,
                    kept_by=holders,
                    commit=commit,
                )
            )
    return found


def _where(repository: Repository, path: str, md5: str) -> tuple[tuple[str, ...], str | None]:
    """What keeps a hash of a path; and where nothing does, a commit that has it."""
    holders = tuple(repository.holders(path, md5))
    return holders, None if holders else repository.commit_with(path, md5)


def _is_folder(path: str, md5: str) -> bool:
    return path.startswith(DATA) and path.count("/") == 1 and md5.endswith(".dir")


def _counts(folder: Path) -> dict[str, int] | None:
    """Rows, refused and set aside, in a folder of shards or in all of those in it."""
    paths = [folder / MANIFEST] if (folder / MANIFEST).is_file() else folder.glob(f"*/{MANIFEST}")
    try:
        manifests = [load_manifest(path.parent) for path in sorted(paths)]
    except UserError:  # a manifest of something else
        return None
    return total(manifests) if manifests else None


def total(manifests: Sequence[Manifest]) -> dict[str, int]:
    """Rows, refused by each filter, and set aside, in all of these folders."""
    totals = {"rows": 0, "rejected": 0, "set aside": 0}
    for manifest in manifests:
        totals["rows"] += manifest.rows
        totals["rejected"] += manifest.rejected_rows
        totals["set aside"] += len(manifest.set_aside)
        for filter, count in manifest.rejected_by_filter.items():
            key = f"rejected/{filter}"
            totals[key] = totals.get(key, 0) + count
    return totals


def recorded_by(repository: Repository, name: str, rev: str | None) -> tuple[str, str]:
    """The stage that wrote a data set, and its hash, in the working tree or at a revision.

    Raises:
        UserError: no stage did.
    """
    stages = repository.lock(rev)
    for stage, recorded in stages.items():
        if DATA + name in recorded.outs:
            return stage, recorded.outs[DATA + name]
    known = sorted(p.removeprefix(DATA) for p, md5 in written(stages).items() if _is_folder(p, md5))
    raise UserError(
        f"The data set {name} was asked for.",
        f"No stage recorded it in dvc.lock{f' at {rev}' if rev else ''}; recorded are:"
        f" {', '.join(known) or 'none'}.",
        "Use one of these, or make it: dvc repro, then git commit.",
    )


def _require_clean(repository: Repository, name: str, stage: str) -> None:
    dirty = repository.uncommitted("dvc.yaml", LOCK)
    if dirty:
        raise uncommitted(name, ", ".join(dirty))
    changed = repository.changed(stage)
    if changed:
        shown = ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" * (len(changed) > 3))
        raise UserError(
            f"The present version of the data set {name} was to be named.",
            f"It is not what dvc.lock has: since it was recorded, DVC finds changed: {shown}.",
            f"Run dvc repro {stage} and commit dvc.lock; or name what is committed: --rev HEAD.",
        )


def uncommitted(name: str, files: str) -> UserError:
    """The refusal to name or log what git does not have."""
    return UserError(
        f"The present version of the data set {name} was to be named or logged.",
        f"Not committed to git: {files}. A tag names a commit, and no commit has this version.",
        "Commit first: git add dvc.yaml dvc.lock params.yaml && git commit.",
    )
