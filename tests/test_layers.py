"""Every package of this repository is type-checked and bound to the layers.

`make lint` runs mypy and import-linter; both look only where pyproject.toml points them. Proves
that no package escapes, and that the contracts notice a wrong import. Needs nothing but the tree.
"""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = (ROOT / "pyproject.toml").read_text()
# They drive insitu in this repository, and are not installed with it.
BESIDE_SRC = ("orchestration", "pipelines")
SMALL_TREE = (
    "insitu/__init__.py",
    "insitu/errors.py",
    "insitu/methods/__init__.py",
    "insitu/methods/one.py",
    "insitu/methods/two.py",
    "insitu/perception.py",
    "insitu/world.py",
    "orchestration/definitions.py",
    "pipelines/gallery.py",
)
LINT = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """One empty module for each kind of layer, under this repository's contracts."""
    for name in SMALL_TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    roots = next(line for line in SETTINGS.splitlines() if line.startswith("root_packages"))
    settings = SETTINGS.replace(roots, f"root_packages = {['insitu', *BESIDE_SRC]}")
    (tmp_path / "pyproject.toml").write_text(settings)
    return tmp_path


def contracts_kept(tree: Path) -> bool:
    env = {"PYTHONPATH": str(tree)}
    return subprocess.run([sys.executable, "-c", LINT], cwd=tree, env=env).returncode == 0


def test_mypy_and_import_linter_see_every_package() -> None:
    tools: dict[str, Any] = tomllib.loads(SETTINGS)["tool"]
    beside = {name for name in BESIDE_SRC if (ROOT / name).is_dir()}

    assert set(tools["importlinter"]["root_packages"]) == {"insitu"} | beside
    assert set(tools["mypy"]["files"]) == {"src", "models/nano/recipe"} | beside


def test_contracts_allow_imports_downward(tree: Path) -> None:
    (tree / "pipelines/gallery.py").write_text("import torch\nimport insitu.methods.one\n")
    (tree / "insitu/methods/one.py").write_text("import insitu.perception\nimport insitu.errors\n")
    assert contracts_kept(tree)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("insitu/world.py", "import insitu.perception"),
        ("insitu/errors.py", "import insitu.world"),
        ("insitu/world.py", "import pipelines.gallery"),
        ("insitu/methods/one.py", "import insitu.methods.two"),
        ("insitu/without_a_layer.py", ""),
        ("orchestration/definitions.py", "import torch"),
        ("pipelines/gallery.py", "import orchestration.definitions"),
    ],
)
def test_contracts_notice_what_the_layers_forbid(tree: Path, module: str, line: str) -> None:
    (tree / module).write_text(line)
    assert not contracts_kept(tree)
