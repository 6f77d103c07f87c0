"""Proves that Dagster, DVC and the docs tell of the same stages, in the same order of work."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import AssetKey

from orchestration.checks import claims_were_registered_before
from orchestration.definitions import defs

ROOT = Path(__file__).resolve().parents[2]
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES = DVC["stages"]
TRAINED = DVC["vars"][0]["trained"]


def items(stage: dict[str, Any]) -> list[tuple[str, ...]]:
    """What a stage is repeated for."""
    if "foreach" in stage:
        each = TRAINED if stage["foreach"] == "${trained}" else stage["foreach"]
        return [(name,) for name in each]
    return [*itertools.product(*stage.get("matrix", {}).values())]


ASSETS = {"/".join([name, *item]) for name, stage in STAGES.items() for item in items(stage)}


def test_every_stage_is_an_asset_and_nothing_else_but_the_partitions() -> None:
    keys = {key.to_user_string() for key in defs.resolve_all_asset_keys()}
    assert keys == {*ASSETS, "tune"}
    everything = defs.resolve_job_def("everything")
    assert {key.to_user_string() for key in everything.asset_layer.selected_asset_keys} == ASSETS
    demo = defs.resolve_job_def("demo").asset_layer.selected_asset_keys
    later = ("prepare", "train", "measure", "variants", "claims")
    slow = {asset for asset in ASSETS if asset.split("/")[0] in later}
    slow |= {f"register/{name}" for name in TRAINED}
    assert {key.to_user_string() for key in demo} == ASSETS - slow


def test_assets_wait_for_what_their_stages_read() -> None:
    graph = defs.resolve_asset_graph()

    def parents(name: str) -> set[str]:
        return {key.to_user_string() for key in graph.get(AssetKey(name.split("/"))).parent_keys}

    assert parents("gallery") == parents("subjects") == set()
    assert parents("regularization") == {"subjects", "attributes"}
    assert parents("encode/subjects") == {"subjects", "regularization"}
    assert parents("tune") == {"subjects", "attributes", "regularization", "encode/subjects"}
    assert parents("adapters") == parents("tune") | {"tune"}
    assert parents("evaluate") == {"subjects", "adapters"}
    assert parents("register/dreammix") == {"adapters", "evaluate"}
    assert parents("register/eligen") == {"train/eligen", "measure/eligen"}
    assert parents("candidates") == {"pairs"} and parents("detections") == {"candidates"}
    assert parents("boundid") == {"candidates", "detections"}
    assert parents("groups") == {"faces"}
    assert parents("prepare/anyphoto") == {"groups"}
    assert parents("train/eligen") == {"entities", "prepare/eligen"}
    assert parents("variants/dreammix") == {"subjects", "adapters"}
    engines = {"boundid", "candidates", "detections", "entities", "faces", "groups", "quadruples"}
    assert parents("claims") == engines
    assert parents("measure/inpaint_anywhere") == {"boundid", "train/inpaint_anywhere"}


@pytest.mark.parametrize(
    ("commit", "passed"),
    [
        ("0" * 40 + " 2026-01-01T10:00:00+01:00", True),
        ("0" * 40 + " 2026-01-03T10:00:00+00:00", False),
        (None, False),
    ],
)
def test_claims_that_were_registered_after_their_results_fail_the_check(
    commit: str | None, passed: bool, tmp_path: Path
) -> None:
    made = {"claims_commit": commit, "date": "2026-01-02T10:00:00+00:00"}
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "claims.json").write_text(json.dumps({"made": made}))
    assert claims_were_registered_before(tmp_path)().passed == passed


def test_the_docs_list_the_stages_in_their_order() -> None:
    text = (ROOT / "docs" / "pipelines.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == list(STAGES)
