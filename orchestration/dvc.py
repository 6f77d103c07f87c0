"""DVC as Dagster needs it: stages, whether one is up to date, and a commit that can be trusted.

`dvc commit` hashes what lies there when it runs, not what a step read when it began. So
dependencies, parameters and command are recorded before launch and compared again under the lock
in which the commit happens.
"""

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.dependency.param import ParamsDependency
from dvc.repo import Repo

LOCK = Path(".insitu") / "commit.lock"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage as dvc.yaml has it, templates resolved.

    Attributes:
        inputs: paths it depends on, relative to the root.
        params: parameter keys it depends on.
        outs: paths it writes, relative to the root.
        recorded: the hash that dvc.lock has of each input; none for a stage that never ran.
    """

    name: str
    desc: str
    cmd: str
    inputs: tuple[str, ...]
    recorded: dict[str, str]
    params: tuple[str, ...]
    outs: tuple[str, ...]


class InputsChanged(RuntimeError):
    """What a step read is no longer what lies there, so its result must not be recorded."""


def stages(root: Path) -> list[Stage]:
    """All stages of the root's dvc.yaml, in its order."""
    repo = Repo(str(root))
    return [
        Stage(
            name=stage.name,
            desc=stage.desc or "",
            cmd=stage.cmd,
            inputs=tuple(_path(d, root) for d in stage.deps if not _is_params(d)),
            recorded={
                _path(d, root): d.hash_info.value
                for d in stage.deps
                if d.hash_info and not _is_params(d)
            },
            params=tuple(key for d in stage.deps if _is_params(d) for key in d.params),
            outs=tuple(_path(out, root) for out in stage.outs),
        )
        for stage in repo.index.stages
        if getattr(stage, "name", None)
    ]


def up_to_date(root: Path, name: str) -> bool:
    """Nothing that the stage depends on or wrote has changed since it was recorded."""
    with locked(root), Repo(str(root)) as repo:
        return not repo.status(targets=[f"{root.resolve() / 'dvc.yaml'}:{name}"])


def recorded_version(root: Path, name: str) -> str:
    """The hashes of the stage's outputs in dvc.lock, joined: its data version."""
    with Repo(str(root)) as repo:
        outs = sorted(_stage(repo, name).outs, key=lambda out: out.def_path)
        return "+".join(out.hash_info.value or "" for out in outs) or "none"


def snapshot(root: Path, name: str) -> dict[str, Any]:
    """Command, and hash or value of each dependency, as they are now."""
    with Repo(str(root)) as repo:
        stage = _stage(repo, name)
        found: dict[str, Any] = {"cmd": stage.cmd}
        for dependency in stage.deps:
            value = dependency.get_hash().value if dependency.exists else None
            found[_path(dependency, root)] = value
    return found


def commit(root: Path, name: str, before: dict[str, Any]) -> str:
    """Record what a stage wrote, unless its inputs are no longer those of `before`.

    Returns:
        The stage's data version.

    Raises:
        InputsChanged: a dependency, a parameter or the command is another one now.
    """
    with locked(root):
        now = snapshot(root, name)
        changed = sorted(
            key for key in before.keys() | now.keys() if before.get(key) != now.get(key)
        )
        if changed:
            raise InputsChanged(
                f"{name}: inputs changed while running ({', '.join(changed)}). Its result belongs"
                " to neither the old inputs nor the new ones. Run it again."
            )
        command = ["-m", "dvc", "--quiet", "--wait-for-lock", "commit", "--force", name]
        done = subprocess.run([sys.executable, *command], cwd=root, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} failed: {done.stderr.strip()}")
    return recorded_version(root, name)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process at a time; others wait. DVC's own lock makes them fail instead."""
    path = root / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _stage(repo: Repo, name: str) -> Any:
    return next(stage for stage in repo.index.stages if getattr(stage, "name", None) == name)


def _is_params(dependency: Any) -> bool:
    return isinstance(dependency, ParamsDependency)


def _path(item: Any, root: Path) -> str:
    path = Path(item.fs_path)
    return path.relative_to(root.resolve()).as_posix() if path.is_absolute() else path.as_posix()
