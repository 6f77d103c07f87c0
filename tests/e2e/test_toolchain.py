"""Dagster and DVC work in one environment, although their parsers want different antlr4 runtimes.

Proves that Dagster parses and resolves an asset selection, that `dvc repro` runs a templated stage
and that `dvc exp run -S` changes a parameter and what follows from it. Needs git, no network; the
DVC project is made in a temporary folder.
"""

import os
import subprocess
from pathlib import Path

import pytest
from dagster import AssetKey, AssetSelection, asset
from dvc.cli import main

STAGES = """
stages:
  greet:
    cmd: echo ${foo} ${nested.bar} > greeting.txt
    params: [foo, nested]
    outs: [greeting.txt]
"""


def git(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["git", *arguments], cwd=folder, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def dvc(*arguments: str) -> None:
    """In this process: what Dagster has loaded must not be in its way."""
    assert main([*arguments, "--quiet"]) == 0


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed git and DVC repository whose stage writes its two parameters to a file.

    With settings of its own: no user's git identity, no shared DVC state.
    """
    person = {f"GIT_{who}_{what}": "a@example.com" for who in ("AUTHOR", "COMMITTER")
              for what in ("NAME", "EMAIL")}  # fmt: skip
    settings = person | {
        "HOME": str(tmp_path),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(tmp_path / "site-cache"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    git(folder, "init", "--quiet")
    dvc("init")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "params.yaml").write_text("foo: 1\nnested:\n  bar: same\n")
    dvc("repro")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_dagster_resolves_an_asset_selection_string() -> None:
    @asset
    def a() -> None: ...

    @asset(deps=[a])
    def b() -> None: ...

    @asset(tags={"x": ""})
    def c() -> None: ...

    @asset
    def d() -> None: ...

    selection = AssetSelection.from_string('key:"a"+ or tag:x')

    assert selection.resolve([a, b, c, d]) == {AssetKey("a"), AssetKey("b"), AssetKey("c")}


def test_dvc_runs_a_templated_stage_and_an_experiment_with_another_parameter(project: Path) -> None:
    assert (project / "greeting.txt").read_text() == "1 same\n"

    dvc("exp", "run", "-S", "foo=2")

    assert (project / "params.yaml").read_text() == "foo: 2\nnested:\n  bar: same\n"
    assert (project / "greeting.txt").read_text() == "2 same\n"
