"""Proves that DVC and Dagster stand on one truth: what either ran, the other leaves alone, and a
result whose inputs changed meanwhile is not recorded.

Needs git and DVC, no checkpoint: the stages are two short scripts in a temporary project.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import AssetKey

from orchestration import dvc, dvc_assets

STAGES = """
stages:
  first:
    desc: Adds one.
    cmd: python first.py
    deps: [first.py, in.txt]
    params: [add]
    outs: [first.txt]
  second:
    cmd: python second.py
    deps: [second.py, first.txt]
    outs: [second.txt]
"""
FIRST = """
import os, pathlib, re, time
print("running first", flush=True)
while os.path.exists("wait"):
    time.sleep(0.1)
add = int(re.search("add: ([0-9]+)", pathlib.Path("params.yaml").read_text()).group(1))
pathlib.Path("first.txt").write_text(str(int(pathlib.Path("in.txt").read_text()) + add))
open("ran", "a").write("first ")
"""
SECOND = """
import pathlib
pathlib.Path("second.txt").write_text(pathlib.Path("first.txt").read_text() * 2)
open("ran", "a").write("second ")
"""


def run(root: Path, *command: str) -> str:
    env = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=root, env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    run(root, "git", "init", "--quiet")
    run(root, sys.executable, "-m", "dvc", "init", "--quiet")
    for name, text in (
        ("dvc.yaml", STAGES), ("first.py", FIRST), ("second.py", SECOND),
        ("params.yaml", "add: 1\n"), ("in.txt", "4"),
    ):  # fmt: skip
        (root / name).write_text(text)
    return root


@pytest.fixture
def root(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project, in which nothing has run."""
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site-cache"))
    return Path(shutil.copytree(project, tmp_path / "project"))


def materialize(root: Path, **options: Any) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        dvc_assets.assets(root),
        resources={"pipes": dg.PipesSubprocessClient(forward_stdio=False)},
        raise_on_error=False,
        **options,
    )


def versions(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Whether each asset ran and the data version it reported."""
    found = {}
    for event in result.get_asset_materialization_events():
        materialization = event.materialization
        ran = materialization.metadata["ran"].value
        version = (materialization.tags or {})["dagster/data_version"]
        found[materialization.asset_key.to_user_string()] = (ran, version)
    return found


def ran(root: Path) -> str:
    path = root / "ran"
    return path.read_text() if path.exists() else ""


def test_the_graph_is_read_from_dvc_yaml(root: Path) -> None:
    first, second = dvc_assets.assets(root)
    assert first.key == AssetKey("first") and second.key == AssetKey("second")
    assert second.asset_deps[second.key] == {AssetKey("first")}
    assert first.descriptions_by_key[first.key] == "Adds one."
    assert first.metadata_by_key[first.key]["command"] == "python first.py"


def test_after_dagster_dvc_has_nothing_to_do(root: Path) -> None:
    result = materialize(root)
    assert result.success
    assert (root / "second.txt").read_text() == "55"
    assert "up to date" in run(root, sys.executable, "-m", "dvc", "status")
    run(root, sys.executable, "-m", "dvc", "repro")
    assert ran(root) == "first second "
    again = materialize(root)
    assert {name: did for name, (did, _) in versions(again).items()} == {
        "first": False, "second": False
    }  # fmt: skip
    assert ran(root) == "first second "
    assert {n: v for n, (_, v) in versions(again).items()} == {
        n: v for n, (_, v) in versions(result).items()
    }


def test_after_dvc_dagster_has_nothing_to_do_until_a_parameter_changes(root: Path) -> None:
    run(root, sys.executable, "-m", "dvc", "repro")
    before = versions(materialize(root))
    assert [did for did, _ in before.values()] == [False, False] and ran(root) == "first second "
    (root / "params.yaml").write_text("add: 2\n")
    after = versions(materialize(root))
    assert [did for did, _ in after.values()] == [True, True]
    assert before["first"][1] != after["first"][1]
    assert (root / "second.txt").read_text() == "66"


def test_inputs_that_change_while_running_are_not_recorded(root: Path) -> None:
    (root / "wait").write_text("")
    script = (
        "import dagster as dg, sys; from pathlib import Path; from orchestration import dvc_assets;"
        "r = dg.materialize(dvc_assets.assets(Path(sys.argv[1])), selection=['first'],"
        "resources={'pipes': dg.PipesSubprocessClient()}, raise_on_error=False);"
        "sys.exit(0 if r.success else 1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(root)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("running first"):
            break
    (root / "in.txt").write_text("40")
    (root / "wait").unlink()
    told = process.stdout.read()
    assert process.wait() == 1
    assert "inputs changed while running (in.txt)" in told
    assert not (root / "dvc.lock").exists()
    assert versions(materialize(root))["first"][0] is True
    assert (root / "first.txt").read_text() == "41"


def test_a_step_dies_with_the_process_that_launched_it(root: Path) -> None:
    """The step's own part: it asks the kernel for a signal when its parent ends.

    The launcher ignores that signal itself, as what runs under some supervisors does.
    """
    script = (
        "import signal, subprocess, sys, os, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "code = 'from insitu.processes import die_with_parent; import time; die_with_parent();"
        "print(1, flush=True); time.sleep(60)';"
        "env = os.environ | {'INSITU_PARENT': str(os.getpid())};"
        "child = subprocess.Popen([sys.executable, '-c', code], env=env, stdout=subprocess.PIPE);"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not alive(child):
            return
        time.sleep(0.1)
    pytest.fail("the step outlived its launcher")


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_one_job_brings_everything_up_to_date_and_says_what_was(root: Path) -> None:
    definitions = dg.Definitions(
        assets=dvc_assets.assets(root),
        jobs=[dvc_assets.everything_job()],
        resources={"pipes": dg.PipesSubprocessClient(forward_stdio=False)},
    )
    job = definitions.resolve_job_def(dvc_assets.EVERYTHING)
    assert [did for did, _ in versions(job.execute_in_process()).values()] == [True, True]
    assert [did for did, _ in versions(job.execute_in_process()).values()] == [False, False]
    assert ran(root) == "first second "


def test_dvc_status_is_that_of_the_stage_alone(root: Path) -> None:
    run(root, sys.executable, "-m", "dvc", "repro")
    assert dvc.up_to_date(root, "first") and dvc.up_to_date(root, "second")
    (root / "first.txt").unlink()
    (root / "first.txt").write_text("7")
    assert not dvc.up_to_date(root, "first")
