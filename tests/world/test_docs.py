"""Proves that docs/world.md says what is so: its examples, its commands, its pictures.

Needs Pillow, and starts the benchmark as a process; no checkpoint.
"""

import ast
import doctest
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "world.md"
PICTURES = ROOT / "docs" / "pictures"
TEXT = PAGE.read_text()
COMMANDS = re.findall(r"`(pytest tests/world/[^`]+)`", TEXT)


def test_examples_give_what_is_printed() -> None:
    result = doctest.testfile(str(PAGE), module_relative=False)
    assert result.attempted > 20 and result.failed == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_named_tests_exist(command: str) -> None:
    path, *selection = command.removeprefix("pytest ").split(" -k ")
    nodes = ast.walk(ast.parse((ROOT / path).read_text()))
    tests = [n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name.startswith("test_")]
    assert [name for name in tests if all(word in name for word in selection)]


def test_the_pages_pictures_are_there_and_small() -> None:
    shown = set(re.findall(r"\]\(pictures/([a-z]+\.png)\)", TEXT))
    assert shown == {path.name for path in PICTURES.glob("*.png")}
    assert all((PICTURES / name).stat().st_size < 150_000 for name in shown)


def test_the_script_draws_these_pictures(tmp_path: Path) -> None:
    """All but the letters, whose shape belongs to the font library."""
    runpy.run_path(str(ROOT / "docs" / "pictures.py"))["main"](tmp_path)
    for path in PICTURES.glob("*.png"):
        with Image.open(path) as kept, Image.open(tmp_path / path.name) as fresh:
            assert kept.size == fresh.size, f"{path.name} is old: run python docs/pictures.py"
            scale = (kept.width // 8, kept.height // 8)
            one, two = (image.convert("RGB").resize(scale).tobytes() for image in (kept, fresh))
            apart = sum(abs(a - b) for a, b in zip(one, two, strict=True)) / len(one)
            assert apart < 2, f"{path.name} is old: run python docs/pictures.py"


def test_the_benchmark_runs() -> None:
    command = [sys.executable, "benchmarks/world.py", "--scenes", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "target: under 0.05 s on one core" in done.stdout and "naive peer" in done.stdout
