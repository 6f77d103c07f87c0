"""Dagster and DVC work in one environment, although their parsers want different antlr4 runtimes.

Proves that Dagster parses and resolves an asset selection, that `dvc repro` runs a templated stage
and that `dvc exp run -S` changes a parameter and what follows from it. Needs git, no network; the
DVC project is made in a temporary folder.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster import AssetKey, AssetSelection, asset

STAGES = """
stages:
  greet:
    cmd: echo ${foo} ${nested.bar} > greeting.txt
    params: [foo, nested]
    outs: [greeting.txt]
"""


def run(folder: Path, *command: str) -> None:
    """Run in `folder` with settings of its own: no user's git identity, no shared DVC state."""
    home = folder.parent
    env = os.environ | {
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com",
        "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site-cache"),
    }
    done = subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def dvc(folder: Path, *arguments: str) -> None:
    run(folder, sys.executable, "-m", "dvc", *arguments)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed git and DVC repository whose stage writes its two parameters to a file."""
    folder = tmp_path / "project"
    folder.mkdir()
    run(folder, "git", "init", "--quiet")
    dvc(folder, "init", "--quiet")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "params.yaml").write_text("foo: 1\nnested:\n  bar: same\n")
    dvc(folder, "repro", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "first")
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

    dvc(project, "exp", "run", "--quiet", "-S", "foo=2")

    assert (project / "params.yaml").read_text() == "foo: 2\nnested:\n  bar: same\n"
    assert (project / "greeting.txt").read_text() == "2 same\n"
