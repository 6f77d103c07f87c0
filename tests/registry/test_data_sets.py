"""Proves that a tagged version of a data set can be fetched again, byte for byte, after the data
changed and `dvc gc` took the rest; that nothing is tagged which no commit has; that logging to
MLflow happens once; and that `insitu data check` knows beforehand what `dvc gc` would take.

Needs git, DVC and MLflow with a SQLite file: the project and its data are small and temporary.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import mlflow.data
import pytest
from click.testing import Result
from dvc.cli import main
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from typer.testing import CliRunner

from insitu import cli
from insitu.cli import data_sets as commands
from insitu.errors import UserError
from insitu.records import Record, ShardWriter
from insitu.registry import dvc_lock
from insitu.registry.data_log import log
from insitu.registry.data_sets import check, data_sets, tag
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.repository import GC, Repository
from insitu.registry.store import Store

STAGES = """
stages:
  boundid:
    cmd: mkdir -p data reports && cp -r made/data data/boundid && cp -r made/page reports/boundid
      && cp made/figures.json reports/boundid.json
    deps: [made]
    params: [count]
    outs: [data/boundid, reports/boundid]
    metrics: [reports/boundid.json]
  adapters:
    cmd: mkdir -p data/adapters && ls data/boundid > data/adapters/manifest.json
    deps: [data/boundid]
    outs: [data/adapters]
"""


@dataclass(frozen=True, kw_only=True)
class Row(Record):
    score: float


COUNTS = {"v1": 3, "v2": 5, "v3": 7}


def run(root: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=root, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(root: Path, *arguments: str, fails: bool = False) -> None:
    """In this process, since starting DVC takes seconds."""
    with contextlib.chdir(root):
        assert bool(main([*arguments, "--quiet"])) == fails


def make(folder: Path, count: int) -> None:
    """What the stage copies: a data set, its page and its figures."""
    shutil.rmtree(folder, ignore_errors=True)
    writer = ShardWriter(folder / "data", Row, "i" * 64)
    with writer.shard(0) as shard:
        for number in range(count):
            shard.keep(Row(id=str(number), score=number / 2))
        shard.reject(Row(id="x", score=0.0), filter="A detected", score=0.1, reason="too low")
    writer.finish(1)
    (folder / "data/README.md").write_text(f"# {count} rows")
    (folder / "page").mkdir()
    (folder / "page/funnel.png").write_bytes(b"a picture of " + bytes([count]))
    funnel = {"candidates": count + 1, "A detected": count}
    (folder / "figures.json").write_text(json.dumps({"funnel": funnel}))


def commit(root: Path, message: str) -> None:
    run(root, "git", "add", "--all")
    run(root, "git", "commit", "--quiet", "--message", message)


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory) -> object:
    """No user's git identity or settings, no shared DVC state, this environment's python."""
    home = tmp_path_factory.mktemp("home")
    person = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER")
              for what in ("NAME", "EMAIL")}  # fmt: skip
    settings = person | {
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site-cache"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def moved_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions in three commits: the first is tagged, the last lies there."""
    root = tmp_path_factory.mktemp("moved") / "project"
    root.mkdir()
    run(root, "git", "init", "--quiet", "--initial-branch", "main")
    dvc(root, "init")
    (root / "dvc.yaml").write_text(STAGES)
    (root / ".gitignore").write_text("/data\n/reports\n")
    for version, count in COUNTS.items():
        (root / "params.yaml").write_text(f"count: {count}\n")
        make(root / "made", count)
        dvc(root, "repro")
        commit(root, version)
        if version == "v1":
            assert tag(Repository(root), "boundid", "v1") == "data/boundid/v1"
    return root


@pytest.fixture
def root(moved_on: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    root = Path(shutil.copytree(moved_on, tmp_path / "project", symlinks=True))
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    return uri


@pytest.fixture
def store(database: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store.connect(database)
    for name in store.names():
        store.client.delete_registered_model(name)
    monkeypatch.setattr(commands, "store", lambda settings: store)
    monkeypatch.setattr(commands, "load", lambda path: None)
    return store


def insitu(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["data", *arguments])


def md5(root: Path, rev: str) -> str:
    """DVC's hash of the data set at a commit."""
    return dvc_lock.written(Repository(root).lock(rev))["data/boundid"]


def register(store: Store, folder: Path, number: int, data: dict[str, str]) -> None:
    content = bytes([number]) * 9
    folder = folder / f"package-{number}"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(content)
    card = Card(
        method="dreammix", subject="mug-1", class_word="mug", identifier="sks",
        base=Base(path="x", revision=None, weights_digest="a" * 64), data_digest="b" * 64,
        settings={}, seed=0, weights_sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    (folder / CARD).write_text(card.text())
    store.register(Package.open(folder), {}, data)


def fetched(root: Path, rev: str, target: Path) -> dict[str, bytes]:
    dvc(root, "get", str(root), "data/boundid", "--rev", rev, "--out", str(target))
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_a_named_version_comes_back_as_it_was(root: Path, tmp_path: Path) -> None:
    line = insitu("tag", "boundid", "v1", "--rev", "main~2").stdout
    assert line == f"data/boundid/v1: dvc get {root} data/boundid --rev data/boundid/v1\n"
    command = line.partition(": ")[2].split()
    run(tmp_path, sys.executable, "-m", *command, "--quiet", "--out", "got")
    got = {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()}
    assert got["README.md"] == b"# 3 rows" and json.loads(got["manifest.json"])["rows"] == 3
    part = hashlib.sha256(got["part-00000.parquet"]).hexdigest()
    assert json.loads(got["manifest.json"])["shards"][0]["sha256"] == part
    assert (root / "data/boundid/README.md").read_text() == "# 7 rows"
    assert run(root, "git", "cat-file", "-t", "data/boundid/v1") == "tag\n"  # annotated


def test_the_present_version_gets_a_name_once(root: Path) -> None:
    first = insitu("tag", "boundid", "v3")
    assert first.exit_code == 0, first.stderr
    assert insitu("tag", "boundid", "v3").stdout == first.stdout
    moved = insitu("tag", "boundid", "v1")
    assert moved.exit_code == 2 and "a name that moves names nothing" in moved.stderr
    (found,) = data_sets(Repository(root))
    assert (found.name, found.md5, found.versions, found.others) == (
        "boundid", md5(root, "HEAD"), ("v3",), ("v1",),
    )  # fmt: skip
    assert found.counts == {"rows": 7, "rejected": 1, "set aside": 0, "rejected/A detected": 1}
    said = insitu("list").stdout.split()
    assert said[:4] == ["boundid", "7", "1", "refused"] and said[4] == md5(root, "HEAD")[:12]


def test_what_no_commit_has_is_not_named(root: Path) -> None:
    def refused(*arguments: str) -> str:
        done = insitu("tag", *arguments)
        assert done.exit_code == 2 and done.stdout == ""
        given, why, todo = done.stderr.splitlines()
        assert (given[:7], why[:7], todo[:7]) == ("given: ", "why:   ", "to do: ")
        return why + todo

    assert "boundid" in refused("pairs", "v1")
    assert "letters" in refused("boundid", "../v1")
    assert "letters" in refused("boundid", "v1.")
    assert "no-such" in refused("boundid", "v9", "--rev", "no-such")
    (root / "params.yaml").write_text("count: 9\n")
    assert "params.yaml" in refused("boundid", "v9")
    (root / "params.yaml").write_text("count: 7\n")
    (root / "data/boundid/README.md").unlink()  # not written into: it may be a link to the cache
    (root / "data/boundid/README.md").write_text("# other rows")
    assert "data/boundid (modified)" in refused("boundid", "v9")
    (root / "dvc.lock").write_text((root / "dvc.lock").read_text() + "\n")
    assert "Not committed to git: dvc.lock" in refused("boundid", "v9")
    assert Repository(root).tags("data/") == ["data/boundid/v1"]


def test_outside_of_git_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    done = insitu("list")
    assert done.exit_code == 2 and "to do: Run from the repository's root" in done.stderr


def test_a_version_is_logged_once_with_input_funnel_and_card(root: Path, store: Store) -> None:
    done = insitu("log", "boundid", "--name", "v1")
    assert done.exit_code == 0 and "logged, run" in done.stdout, done.stderr
    again = insitu("log", "boundid", "--name", "v1")
    assert again.stdout == done.stdout.replace("logged, run", "logged before, run")
    run_id = done.stdout.split()[-1]
    run = store.client.get_run(run_id)
    assert run.data.metrics == {
        "rows": 3, "rejected": 1, "set aside": 0, "rejected/A detected": 1,
        "funnel/0 candidates": 4, "funnel/1 A detected": 3,
    }  # fmt: skip
    assert run.data.tags["data.version"] == "v1" and run.info.status == "FINISHED"
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == ("boundid", md5(root, "main~2"))
    source = mlflow.data.get_source(given.dataset)
    assert isinstance(source, CodeDatasetSource)
    told = source.to_dict()["tags"]
    assert told["mlflow.source.git.commit"] == Repository(root).commit("main~2")
    assert told["get"] == f"dvc get {root} data/boundid --rev {told['mlflow.source.git.commit']}"
    kept = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (kept / "README.md").read_text() == "# 3 rows"  # of that version, not of the present
    assert (kept / "funnel.png").read_bytes() == b"a picture of \x03"

    present = log(Repository(root), store, "boundid")
    assert present.new and present.run_id != run_id and present.md5 == md5(root, "HEAD")
    assert not log(Repository(root), store, "boundid").new


def test_what_cannot_be_logged_is_refused(root: Path, store: Store) -> None:
    repository = Repository(root)
    with pytest.raises(UserError, match="There is no tag data/boundid/v7"):
        log(repository, store, "boundid", "v7")
    with pytest.raises(UserError, match=r"no manifest\.json of rows"):
        log(repository, store, "adapters")
    tag(repository, "boundid", "v2", "main~1")
    shutil.rmtree(root / ".dvc/cache")
    before = len(store.client.search_runs(["1"]))
    with pytest.raises(UserError, match="dvc fetch boundid"):
        log(repository, store, "boundid", "v2")
    assert len(store.client.search_runs(["1"])) == before
    (root / "dvc.lock").write_text(run(root, "git", "show", "main~1:dvc.lock"))
    with pytest.raises(UserError, match=r"Not committed to git: dvc\.lock"):
        log(repository, store, "boundid")


def test_check_says_what_gc_takes_and_a_tag_keeps_it(
    root: Path, store: Store, tmp_path: Path
) -> None:
    versions = [md5(root, f"main~{back}") for back in (2, 1, 0)]
    for number, version in enumerate(versions):
        register(store, tmp_path, number, {"boundid": version})
    behind = check(Repository(root), store)
    kept = [("data/boundid/v1",), (), ("main",)]
    assert [(one.md5, one.kept_by) for one in behind] == list(zip(versions, kept, strict=True))
    said = insitu("check")
    assert said.exit_code == 1 and f"{GC} would delete" in said.stderr
    second = Repository(root).commit("main~1")
    todo = f"insitu data tag boundid NAME --rev {second[:12]}"
    assert [todo in line for line in said.stdout.splitlines()] == [False, True, False]

    # In a copy without the tag, exactly that goes.
    spoilt = Path(shutil.copytree(root, tmp_path / "spoilt", symlinks=True))
    dvc(spoilt, *GC.split()[1:], "--force")
    for rev, lost in (("main~2", False), ("main~1", True), ("main", False)):
        out = str(tmp_path / f"{rev}-after")
        dvc(spoilt, "get", str(spoilt), "data/boundid", "--rev", rev, "--out", out, fails=lost)

    assert insitu("tag", "boundid", "v2", "--rev", second).exit_code == 0
    assert insitu("check").exit_code == 0
    before = fetched(root, "data/boundid/v2", tmp_path / "before")
    dvc(root, "gc", "--all-tags", "--force")
    assert fetched(root, "data/boundid/v2", tmp_path / "after") == before
    assert json.loads(before["manifest.json"])["rows"] == 5


def test_an_adapter_of_unknown_data_is_not_called_safe(
    root: Path, store: Store, tmp_path: Path
) -> None:
    assert insitu("check").stdout == "No adapter is registered.\n"
    register(store, tmp_path, 0, {})
    register(store, tmp_path, 1, {"boundid": "0" * 32 + ".dir"})
    said = insitu("check")
    first, second = said.stdout.splitlines()
    assert said.exit_code == 1
    assert "its data is not recorded  would go; dvc repro" in first
    assert "would go; git commit dvc.lock" in second
    register(store, tmp_path, 2, {"boundid": md5(root, "HEAD")})
    shutil.rmtree(tmp_path / "package-0")
    register(store, tmp_path, 0, {"boundid": md5(root, "HEAD")})  # recorded by registering again
    assert [bool(one.kept_by) for one in check(Repository(root), store)] == [True, False, True]


def test_what_adapters_were_tuned_on_is_read_from_dvc_lock(root: Path, tmp_path: Path) -> None:
    stages = dvc_lock.read(root)
    assert dvc_lock.data_behind(stages, "adapters") == {"boundid": md5(root, "HEAD")}
    assert dvc_lock.data_behind(stages, "tune") == {}
    assert dvc_lock.data_behind(dvc_lock.read(tmp_path), "adapters") == {}


def test_an_address_shows_no_password(root: Path) -> None:
    run(root, "git", "remote", "add", "origin", "https://me:secret@example.com/a/b.git")
    assert Repository(root).get_command("data/boundid", "v1") == (
        "dvc get https://example.com/a/b.git data/boundid --rev v1"
    )
    said = insitu("tag", "boundid", "v1", "--rev", "main~2").stdout
    assert "dvc push && git push origin data/boundid/v1" in said
