"""A user's own photos become a partition and an adapter, through Dagster and the real steps.

Proves, on a copy of the project, that a new folder needs no change of code, that two partitions
are tuned at once, that the stage `adapters` keeps what they made and prunes a subject that is gone,
that DVC has nothing left to do, and that code edited in the middle of tuning is noticed. Starts an
MLflow server on loopback; the base is a tiny random checkpoint of the real class.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from PIL import Image as Pillow

from insitu import world
from orchestration.dvc_assets import PARTITIONS
from tests.tiny import write_params

SHIPPED = Path(__file__).parents[2]
OWN = "my-mug"


class Project:
    """A copy of the repository's code and settings, with its own Dagster, DVC and MLflow."""

    def __init__(self, root: Path, checkpoints: dict[str, Path], port: int) -> None:
        self.root = root
        for name in ("dvc.yaml", "pipelines", "orchestration", "src/insitu", "subjects"):
            source, target = SHIPPED / name, root / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for card in (SHIPPED / "models" / "nano").glob("*/card.json"):
            (root / "models" / "nano" / card.parent.name).mkdir(parents=True)
            shutil.copy(card, root / "models" / "nano" / card.parent.name)
        write_params(root / "params.yaml", checkpoints, tracking_uri=f"http://127.0.0.1:{port}")
        home = root.parent / "dagster"
        home.mkdir()
        shutil.copy(SHIPPED / "infra" / "dagster.yaml", home)
        self.env = os.environ | {
            "DAGSTER_HOME": str(home), "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_GLOBAL": os.devnull,
            "DVC_SITE_CACHE_DIR": str(root.parent / "site-cache"), "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(root / "src"),
        }  # fmt: skip
        self.run("git", "init", "--quiet")
        self.run(sys.executable, "-m", "dvc", "init", "--quiet")

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=self.root, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, *command: str) -> str:
        process = self.start(*command)
        told, _ = process.communicate()
        assert process.returncode == 0, told
        return told

    def materialize(self, assets: str, *options: str) -> list[str]:
        """The command that a page's button stands for."""
        module = ("-m", "orchestration.definitions")
        asset = [sys.executable, "-m", "dagster", "asset", "materialize"]
        return [*asset, *module, "--select", assets, *options]

    def several(self, assets: str) -> list[str]:
        """The same in one process of Dagster's; each step still has one of its own."""
        config = json.dumps({"execution": {"config": {"in_process": {}}}})
        return self.materialize(assets, "--config-json", config)

    def adapters(self) -> dict[str, str]:
        """Each listed adapter's digest."""
        listed: dict[str, str] = json.loads((self.root / "data/adapters/manifest.json").read_text())
        return listed

    def partitions(self) -> set[str]:
        with dg.DagsterInstance.from_config(self.env["DAGSTER_HOME"]) as instance:
            return set(instance.get_dynamic_partitions(str(PARTITIONS.name)))


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path]
) -> Iterator[Project]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = tmp_path_factory.mktemp("own") / "project"
    (root / "src").mkdir(parents=True)
    project = Project(root, checkpoints, port)
    server = subprocess.Popen(
        [sys.executable, "-m", "insitu.cli", "mlflow"], cwd=root, env=project.env,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        yield project
    finally:
        server.terminate()
        server.wait()


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert server.poll() is None, "the MLflow server ended"
            time.sleep(0.2)
    raise AssertionError(f"nothing answers at {url}")


def add_photos(project: Project) -> None:
    """What docs/pipelines.md tells a user to do."""
    folder = project.root / "subjects" / OWN
    folder.mkdir()
    (folder / "subject.yaml").write_text("class: mug\n")
    mug = world.sample_subject(world.rng_for("own"), category="mug")
    for view in range(4):
        photo = world.portrait(mug, world.rng_for("own", view), 72).image
        Pillow.fromarray(photo).save(folder / f"{view}.jpg")


def test_photos_become_a_partition_and_an_adapter_and_are_pruned(project: Project) -> None:
    add_photos(project)
    project.run(*project.several("subjects,attributes,regularization,encode/subjects"))
    names = {path.name for path in (project.root / "data/subjects").iterdir() if path.is_dir()}
    assert OWN in names and len(names) == 2
    assert project.partitions() == names

    together = [
        project.start(*project.materialize("tune", "--partition", name)) for name in sorted(names)
    ]
    told = [process.communicate()[0] for process in together]
    assert [process.returncode for process in together] == [0, 0], "\n".join(told)

    told_by_stage = project.run(*project.materialize("adapters"))
    assert all(f"{name}: unchanged" in told_by_stage for name in names)
    assert project.adapters().keys() == names
    kept = project.adapters()
    assert project.run(sys.executable, "-m", "dvc", "status", "subjects", "adapters").count(
        "up to date"
    )

    shutil.rmtree(project.root / "subjects" / OWN)
    told_by_stage = project.run(
        *project.several("subjects,attributes,regularization,encode/subjects,adapters")
    )
    assert f"{OWN}: removed, it is no longer a subject" in told_by_stage
    assert project.partitions() == names - {OWN}
    assert project.adapters() == {n: digest for n, digest in kept.items() if n != OWN}
    assert not (project.root / "data/adapters" / OWN).exists()


def test_code_edited_while_tuning_is_not_recorded(project: Project) -> None:
    code = project.root / "src/insitu/training/data.py"
    work, lock = project.root / ".insitu/work/tune", project.root / "dvc.lock"
    edit(code)  # so that there is something to do
    known, recorded = set(work.iterdir()), lock.read_text()
    running = project.start(*project.materialize("adapters"))
    while running.poll() is None and set(work.iterdir()) <= known:
        time.sleep(0.05)
    edit(code)
    told, _ = running.communicate()
    assert running.returncode != 0
    assert "inputs changed while running (src/insitu/training" in told
    assert lock.read_text() == recorded


def edit(code: Path) -> None:
    with code.open("a") as file:
        file.write("# edited\n")
