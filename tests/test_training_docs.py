"""Proves that docs/training.md says what is so: its settings are accepted, its table has every key
of `tune`, and what it names to be run or read is there.

Needs the repository's params.yaml; no model is loaded and nothing is trained.
"""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from insitu.params import Params, load
from insitu.params.spine import Tune

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def plain(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def params(tmp_path: Path, changed: dict[str, Any]) -> Params:
    content = plain((ROOT / "params.yaml").read_text())
    for key, value in changed.items():
        known = content["tune"][key]
        content["tune"][key] = known | value if isinstance(known, dict) else value
    file = tmp_path / "params.yaml"
    YAML().dump(content, file)
    return load(file)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_accepted_and_changes_something(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # where the shipped checkpoints lie
    (name,) = plain(block)
    assert name == "tune"
    assert params(tmp_path, plain(block)["tune"]) != params(tmp_path, {})


def test_the_stages_of_the_table_are_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (stages,) = re.findall(r"`(\[\{until: .*\}\])`", PAGE)
    found = params(tmp_path, {"stages": plain(stages)}).tune.stages
    assert [stage.until for stage in found] == [0.5, 1]


def test_the_table_has_every_key_and_no_other() -> None:
    table = PAGE.split("| key | decides |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    named = {key.split(".")[0] for cell in cells for key in re.findall(r"`([a-z_.]+)`", cell)}
    assert named == Tune.model_fields.keys()


def test_what_it_names_is_there() -> None:
    paths = set(re.findall(r"\b(?:tests|src|docs)/[\w/]+\.py", PAGE))
    assert "tests/training/test_fit.py" in paths
    assert [path for path in paths if not (ROOT / path).exists()] == []
    links = re.findall(r"\]\(([\w./]+\.md)\)", PAGE)
    assert links
    assert [link for link in links if not (ROOT / "docs" / link).exists()] == []
    modules = set(re.findall(r"python -m ([\w.]+)", PAGE))
    assert {"pipelines.adapters", "insitu.training.launch"} <= modules
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []
