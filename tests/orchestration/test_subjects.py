"""Proves that subjects are partitions: they come and go with their photos, and are tuned side by
side without a word to DVC.

Needs no checkpoint: the step that tunes is a short script in a temporary project.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from orchestration import subjects
from orchestration.dvc_assets import PARTITIONS

STEP = """
import json, pathlib, sys, time
from PIL import Image
name = sys.argv[sys.argv.index("--subject") + 1]
if name == "broken-1":
    sys.exit("this subject cannot be tuned")
time.sleep(1)
folder = pathlib.Path("data/adapters") / name
folder.mkdir(parents=True)
Image.new("RGB", (8, 8), "red").save(folder / "preview.png")
(folder / "run.json").write_text(json.dumps({"seconds": 1.0, "digest": f"digest of {name}"}))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("mug-1", "cat-2", "broken-1"):
        (tmp_path / subjects.SUBJECTS / name).mkdir(parents=True)
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines" / "__init__.py").write_text("")
    (tmp_path / "pipelines" / "adapters.py").write_text(STEP)
    return tmp_path


@pytest.fixture
def instance(tmp_path_factory: pytest.TempPathFactory) -> dg.DagsterInstance:
    """On disk, as a team's is: the one in memory cannot be shared between threads."""
    return dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("dagster")))


def known(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_dynamic_partitions(str(PARTITIONS.name)))


def update(root: Path, instance: dg.DagsterInstance) -> None:
    subjects.update_partitions(dg.build_asset_context(instance=instance), root)


def tune(root: Path, instance: dg.DagsterInstance, name: str) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [subjects.tune_asset(root)],
        partition_key=name,
        instance=instance,
        resources={"pipes": dg.PipesSubprocessClient(forward_stdio=False)},
        raise_on_error=False,
    )


def test_partitions_are_the_subjects_with_photos(root: Path, instance: dg.DagsterInstance) -> None:
    update(root, instance)
    assert known(instance) == {"mug-1", "cat-2", "broken-1"}
    shutil.rmtree(root / subjects.SUBJECTS / "mug-1")
    (root / subjects.SUBJECTS / "dog-3").mkdir()
    update(root, instance)
    assert known(instance) == {"cat-2", "dog-3", "broken-1"}


def test_two_partitions_at_once_and_a_third_that_fails(
    root: Path, instance: dg.DagsterInstance
) -> None:
    update(root, instance)
    names = ("mug-1", "cat-2", "broken-1")
    with ThreadPoolExecutor(3) as pool:
        results = dict(zip(names, pool.map(lambda n: tune(root, instance, n), names), strict=True))
    assert {name: result.success for name, result in results.items()} == {
        "mug-1": True, "cat-2": True, "broken-1": False
    }  # fmt: skip
    for name in names[:2]:
        (event,) = results[name].get_asset_materialization_events()
        tags = event.materialization.tags or {}
        assert event.materialization.partition == name
        assert tags["dagster/data_version"] == f"digest of {name}"
        assert "data:image/" in str(event.materialization.metadata["preview"].value)
    made = sorted(path.name for path in (root / subjects.ADAPTERS).iterdir())
    assert made == ["cat-2", "mug-1"]
    run = json.loads((root / subjects.ADAPTERS / "mug-1" / "run.json").read_text())
    assert run["digest"] == "digest of mug-1"
