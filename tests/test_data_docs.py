"""Proves that docs/data.md says what is so: settings are accepted, stages and commands exist.

Needs the repository's params.yaml and dvc.yaml; no model is loaded and nothing is asked.
"""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from insitu.cli import app
from insitu.params import Params, load

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "data.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
ENGINES = (
    "pairs", "candidates", "detections", "boundid", "entities", "quadruples", "faces", "groups",
    "attributes", "regularization",
)  # fmt: skip


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def merge(into: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """Only what is there may be changed, or filled in where it is null or may be absent."""
    for key, value in block.items():
        known = into.get(key)
        into[key] = merge(known, value) if isinstance(known, dict) else value
    return into


def merged(tmp_path: Path, *blocks: str) -> Params:
    content = plain((ROOT / "params.yaml").read_text())
    for block in blocks:
        merge(content, plain(block))
    file = tmp_path / "params.yaml"
    YAML().dump(content, file)
    return load(file)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(":")[0])
def test_every_block_is_accepted_and_changes_something(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the shipped checkpoints lie
    assert merged(tmp_path, block) != merged(tmp_path)


def test_all_backends_go_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    params = merged(tmp_path, *(block for block in BLOCKS if "tagger: local" not in block))
    own = params.perception
    assert (own.segmenter, own.tagger, own.faces) == ("sam", "endpoint", "insightface")
    assert params.models.flux.is_hub_id and params.models.detector.is_hub_id
    assert (params.pairs.bank, params.candidates.generator) == ("pictures", "flux")
    assert params.runner.engine == "ray" and params.pictures.licence == "CC-BY-4.0"


def test_the_table_has_the_stages() -> None:
    named = re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)
    assert tuple(named) == ENGINES
    assert set(named) <= plain((ROOT / "dvc.yaml").read_text())["stages"].keys()


def test_its_commands_exist() -> None:
    commands = set(re.findall(r"^insitu data ([a-z]+)", PAGE, re.MULTILINE))
    assert commands == {"list", "tag", "log", "check"}
    for command in commands:
        assert CliRunner().invoke(app, ["data", command, "--help"]).exit_code == 0
