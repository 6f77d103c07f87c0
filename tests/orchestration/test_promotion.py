"""Proves that new candidates are asked of the gate once, and that a champion's change is noted,
also one that was made by hand. MLflow is a SQLite file.
"""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from insitu.registry.store import CANDIDATE, CHAMPION, Store
from insitu.registry.verdict import Verdict
from orchestration import promotion
from orchestration.definitions import defs
from tests import mlflow_file
from tests.registry.test_store import GOOD, make_package


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    found = Store.connect(mlflow_file.make(tmp_path))
    monkeypatch.setattr(promotion, "_store", lambda root: found)
    return found


def evaluate(sensor: str, cursor: str | None = None) -> Any:
    context = dg.build_sensor_context(cursor=cursor, definitions=defs)
    return defs.get_sensor_def(sensor).evaluate_tick(context)


def test_a_new_candidate_is_asked_of_the_gate_once(store: Store, tmp_path: Path) -> None:
    assert evaluate("candidates").run_requests == []
    entry = store.register(make_package(tmp_path / "a", b"a"), GOOD)
    (asked,) = evaluate("candidates").run_requests
    assert asked.run_key == f"{entry.name} {entry.digest}"
    assert asked.run_config["ops"]["promote_candidates"]["config"] == {"names": [entry.name]}
    store.keep_verdict(entry, Verdict(passed=False, reasons=("not met",)))
    assert evaluate("candidates").run_requests == []
    # Another version, named candidate in MLflow's page.
    store.register(make_package(tmp_path / "b", b"b"), GOOD)
    store.client.set_registered_model_alias(entry.name, CANDIDATE, "2")
    assert len(evaluate("candidates").run_requests) == 1


def test_a_champion_moved_by_hand_is_noted_as_such(store: Store, tmp_path: Path) -> None:
    entry = store.register(make_package(tmp_path / "a", b"a"), GOOD)
    first = evaluate("champions")
    assert first.asset_events == []
    store.keep_verdict(entry, Verdict(passed=True, reasons=()))
    store.crown(entry.name, "1")
    second = evaluate("champions", first.cursor)
    (noted,) = second.asset_events
    assert noted.asset_key == dg.AssetKey(["register", "dreammix"])
    told = {name: value.value for name, value in noted.metadata.items()}
    assert told["gate"] == "passed" and (told["before"], told["champion"]) == ("none", "1")
    store.register(make_package(tmp_path / "b", b"b"), GOOD)
    store.client.set_registered_model_alias(entry.name, CHAMPION, "2")
    third = evaluate("champions", second.cursor)
    told = {name: value.value for name, value in third.asset_events[0].metadata.items()}
    assert told["gate"] == "moved by hand" and (told["before"], told["champion"]) == ("1", "2")
    assert evaluate("champions", third.cursor).asset_events == []
