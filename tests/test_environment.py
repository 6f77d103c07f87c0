"""The lock, pyproject.toml and the installed packages agree.

Proves that every locked version is the installed one, that the lock satisfies every requirement of
pyproject.toml, and that it holds hashes but no torch, no CUDA package and no index address. Needs
the environment that `make setup` makes.
"""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", re.MULTILINE)
# Chosen by the machine (CPU or CUDA build), and therefore outside the lock.
OUTSIDE_LOCK = "torch"


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def locked(lock: str) -> dict[str, str]:
    """Package name to locked version."""
    return {canonicalize_name(name): pinned for name, pinned in PIN.findall(lock)}


@pytest.fixture(scope="module")
def required() -> list[Requirement]:
    """Every requirement of pyproject.toml, over all extras and the build."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    groups.append(settings["build-system"]["requires"])
    return [Requirement(line) for group in groups for line in group]


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def test_every_locked_version_is_installed(locked: dict[str, str]) -> None:
    found = {name: installed(name) for name in locked}
    assert found == locked, "run make setup"


def test_lock_and_environment_satisfy_every_requirement(
    locked: dict[str, str], required: list[Requirement]
) -> None:
    for requirement in required:
        name = canonicalize_name(requirement.name)
        chosen = installed(name) if name == OUTSIDE_LOCK else locked[name]
        assert requirement.specifier.contains(Version(chosen).public, prereleases=True), requirement


def test_every_requirement_of_the_lock_has_a_hash(lock: str, locked: dict[str, str]) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked)
    assert all("--hash=sha256:" in entry for entry in entries)


def test_lock_leaves_torch_and_cuda_to_the_machine(locked: dict[str, str]) -> None:
    parts = ("torch", "triton", "nvidia", "cuda")
    found = {name for name in locked if name.split("-")[0] in parts}
    # It asks the driver for its figures, in plain Python: the same on every machine.
    assert found <= {"nvidia-ml-py"}


def test_lock_names_no_index(lock: str) -> None:
    assert "://" not in lock
