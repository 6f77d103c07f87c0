"""Proves that the claims' results become runs, once, with links to them. Needs MLflow with a SQLite
file, and no server.
"""

from pathlib import Path
from typing import Any

import pytest

from insitu.registry import claims_log
from insitu.registry.store import Store
from tests import mlflow_file

MEAN = {"mean": 0.5, "low": 0.4, "high": 0.6}
FOUND: dict[str, Any] = {
    "made": {"claims_commit": "c0ffee0 2026-01-01", "date": "2026-01-02", "seconds": 5},
    "seeds": [1, 2],
    "claims": [{"id": "alpha.one", "verdict": "holds", "tests": [{"difference": 0.25}]}],
    "arms": {
        "alpha": {
            "full: all": {
                "set": {}, "data": {}, "start": "shared", "adapters": {"1": "ad", "2": "be"},
                "data_digest": "da", "seconds": [1, 2],
            },
            "less": {"set": {"part": False}, "data": {}, "start": None, "adapters": {},
                     "data_digest": None, "seconds": []},
        }
    },
    "benchmarks": [
        {
            "method": "alpha", "name": "rows", "of": "rows",
            "rows": [
                {"arm": arm, "group": group, "requests": 3, "means": {"dino": MEAN}}
                for arm in ("full: all", "painted") for group in ("", "a mug")
            ],
        }
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store.connect(mlflow_file.make(tmp_path_factory.mktemp("mlflow")))


def test_the_same_results_are_logged_once_with_a_run_for_each_arm(
    store: Store, tmp_path: Path
) -> None:
    runs = claims_log.log(store, FOUND)
    later = FOUND | {"made": FOUND["made"] | {"date": "2026-02-02", "seconds": 7}}
    assert claims_log.log(store, later) == runs
    assert list(runs["arms"]) == ["alpha"]
    assert list(runs["arms"]["alpha"]) == ["full: all", "less", "painted"]

    def run(address: str) -> Any:
        assert address.startswith(f"{store.uri}/#/experiments/")
        return store.client.get_run(address.rpartition("/")[2])

    whole = run(runs["all"])
    assert whole.data.metrics == {"alpha.one": 0.25} and whole.data.tags["alpha.one"] == "holds"
    assert whole.info.status == "FINISHED" and whole.data.params["date"] == "2026-01-02"
    full = run(runs["arms"]["alpha"]["full: all"])
    assert full.data.metrics == {"rows/dino": 0.5} and full.data.params == {"start": "shared"}
    assert full.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert (full.data.tags["adapter 2"], full.data.tags["data"]) == ("be", "da")
    assert run(runs["arms"]["alpha"]["less"]).data.params == {"set": '{"part": false}'}

    report = tmp_path / "index.html"
    report.write_text("<!doctype html>")
    claims_log.keep(store, runs["all"], str(report))
    assert [a.path for a in store.client.list_artifacts(whole.info.run_id)] == ["index.html"]


def test_other_results_are_other_runs(store: Store) -> None:
    first = claims_log.log(store, FOUND)
    assert claims_log.log(store, FOUND | {"seeds": [3]})["all"] != first["all"]
