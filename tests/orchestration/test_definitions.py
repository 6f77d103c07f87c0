"""Proves that Dagster, DVC and the docs tell of the same stages, in the same order of work."""

import itertools
import re
from pathlib import Path
from typing import Any

import yaml
from dagster import AssetKey

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
    assert parents("register") == {"adapters", "evaluate"}
    assert parents("candidates") == {"pairs"} and parents("detections") == {"candidates"}
    assert parents("boundid") == {"candidates", "detections"}
    assert parents("groups") == {"faces"}
    assert parents("prepare/anyphoto") == {"groups"}
    assert parents("train/eligen") == {"entities", "prepare/eligen"}
    assert parents("variants/dreammix") == {"subjects", "adapters"}
    engines = {"boundid", "candidates", "detections", "entities", "faces", "groups", "quadruples"}
    assert parents("claims") == engines
    assert parents("measure/inpaint_anywhere") == {"boundid", "train/inpaint_anywhere"}


def test_the_docs_list_the_stages_in_their_order() -> None:
    text = (ROOT / "docs" / "pipelines.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", text, flags=re.MULTILINE) == list(STAGES)
