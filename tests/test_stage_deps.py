"""Each stage of dvc.yaml depends on exactly the code that it runs.

Proves that a change of code makes the stages stale that import it, and no others. The import graph
is grimp's; nothing is imported or run.
"""

from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("src", "pipelines")
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
LOADED_BY_NAME = {"insitu.methods": f"insitu.methods.{PARAMS['tune']['method']}"}
"""Modules that import another by a name from the settings, and that other as they stand."""
STAGES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        return grimp.build_graph("insitu", "pipelines", cache_dir=None)


def source(module: str) -> Path:
    base = ROOT / ("src" if module.split(".")[0] == "insitu" else "") / module.replace(".", "/")
    package = base / "__init__.py"
    return package if package.exists() else base.with_suffix(".py")


def closure(graph: grimp.ImportGraph, start: str) -> set[Path]:
    """Files of a module, of all that it imports, and of the packages that these lie in."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        module = ahead.pop()
        if module in found:
            continue
        found.add(module)
        ahead += graph.find_modules_directly_imported_by(module)
        ahead += [module.rpartition(".")[0]] if "." in module else []
        ahead += [LOADED_BY_NAME[module]] if module in LOADED_BY_NAME else []
    return {source(module) for module in found}


def listed(stage: dict[str, Any]) -> set[Path]:
    files: set[Path] = set()
    for path in stage["deps"]:
        if path.split("/")[0] in CODE:
            whole = ROOT / path
            files |= set(whole.rglob("*.py")) if whole.is_dir() else {whole}
    return files


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_it_runs(name: str, graph: grimp.ImportGraph) -> None:
    module = STAGES[name]["cmd"].removeprefix("python -m ").split()[0]
    needed, given = closure(graph, module), listed(STAGES[name])
    missing = sorted(str(path.relative_to(ROOT)) for path in needed - given)
    needless = sorted(str(path.relative_to(ROOT)) for path in given - needed)
    assert (missing, needless) == ([], [])
