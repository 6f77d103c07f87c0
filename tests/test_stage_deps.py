"""Each stage of dvc.yaml depends on exactly the code that it runs.

Proves that a change of code makes the stages stale that import it, and no others. The import graph
is grimp's; nothing is imported or run.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
CODE = ("src", "pipelines")
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
DVC: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = DVC["stages"]
TRAINED = [*DVC["vars"][0]["trained"]]
"""Methods that stages are repeated for."""
ITEMS = {"claims": sorted({*TRAINED, PARAMS["tune"]["method"]})}
"""Methods of single stages that load others than the one that is tuned."""
BASES = {"flux": "insitu.backbones.flux", "inpaint": "insitu.backbones.unet"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        return grimp.build_graph("insitu", "pipelines", cache_dir=None)


def source(module: str) -> Path:
    base = ROOT / ("src" if module.split(".")[0] == "insitu" else "") / module.replace(".", "/")
    package = base / "__init__.py"
    return package if package.exists() else base.with_suffix(".py")


def loaded_by_name(methods: Iterable[str]) -> dict[str, list[str]]:
    """Modules that import others by a name from the settings, and those others for methods."""
    told = [(ROOT / f"src/insitu/methods/{name}/method.py").read_text() for name in methods]
    bases = [re.findall(r'^    base = "(\w+)"$', text, re.MULTILINE)[0] for text in told]
    return {
        "insitu.methods": [
            f"insitu.methods.{name}{end}" for name in methods for end in ("", ".data")
        ],
        "insitu.backbones.bases": [BASES[base] for base in bases],
    }


def closure(graph: grimp.ImportGraph, start: str, methods: Iterable[str]) -> set[Path]:
    """Files of a module, of all that it imports, and of the packages that these lie in."""
    by_name = loaded_by_name(methods)
    found: set[str] = set()
    ahead = [start]
    while ahead:
        module = ahead.pop()
        if module in found:
            continue
        found.add(module)
        ahead += graph.find_modules_directly_imported_by(module)
        ahead += [module.rpartition(".")[0]] if "." in module else []
        ahead += by_name.get(module, [])
    return {source(module) for module in found}


def listed(paths: Iterable[str]) -> set[Path]:
    files: set[Path] = set()
    for path in paths:
        if path.split("/")[0] in CODE:
            whole = ROOT / path
            files |= set(whole.rglob("*.py")) if whole.is_dir() else {whole}
    return files


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_it_runs(name: str, graph: grimp.ImportGraph) -> None:
    """Items of one stage have their dependencies in common, apart from what is named after them."""
    tuned = PARAMS["tune"]["method"]
    items = TRAINED if "foreach" in STAGES[name] else ITEMS.get(name, [tuned])
    stage = STAGES[name].get("do", STAGES[name])
    module = stage["cmd"].removeprefix("python -m ").split()[0]
    needed = closure(graph, module, items)
    given = listed(path.replace("${key}", item) for path in stage["deps"] for item in items)
    missing = sorted(str(path.relative_to(ROOT)) for path in needed - given)
    needless = sorted(str(path.relative_to(ROOT)) for path in given - needed)
    assert (missing, needless) == ([], [])
