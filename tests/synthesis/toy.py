"""A toy worker in place of models, for tests of the runner, and processes that run it and are
killed.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from insitu.records import Manifest, Record
from insitu.synthesis import runner
from insitu.synthesis.runner import Engine, Job, Verdict, produce

REPOSITORY = Path(__file__).parents[2]
SHARDS, ROWS, BATCH = 12, 7, 3
KILLS = 10
POISONED = frozenset({9, 30, 31, 77})
CODE, OTHER_CODE = "c" * 64, "d" * 64


@dataclass(frozen=True, kw_only=True)
class Half(Record):
    half: float


@dataclass(kw_only=True)
class Halver:
    """Halves numbers; refuses multiples of five, fails at poisoned ones, gives thirteens twice."""

    poisoned: frozenset[int] = POISONED
    seen: list[list[int]] = field(default_factory=list)

    def __call__(self, numbers: Sequence[int]) -> Iterator[Verdict[Half]]:
        self.seen.append(list(numbers))
        for number in numbers:
            tick()
            row = Half(id=f"n{number}", half=number / 2)
            if number % 5 == 0:
                yield Verdict(record=row, filter="fives", score=row.half, reason=f"{number} = 5k")
            else:
                yield Verdict(record=row)
            if number % 13 == 0:
                yield Verdict(record=replace(row, id=f"{row.id}-again"))
            if number in self.poisoned:  # after its first verdict, which must not stay
                raise ZeroDivisionError(f"{number} is poisoned")


def numbers(shard: int) -> range:
    return range(shard * ROWS, (shard + 1) * ROWS)


def name(number: int) -> str:
    return f"number {number}"


def job(make: Callable[[], Any] = Halver, **changed: Any) -> Job[int, Half]:
    return replace(Job(make=make, rows=numbers, name=name, batch=BATCH), **changed)


def make(
    root: Path,
    toy: Job[int, Half] | None = None,
    *,
    shards: int = SHARDS,
    code: str = CODE,
    engine: Engine | None = None,
    **options: Any,
) -> Manifest:
    """What a stage does: its work in `root/work`, its data in `root/halves`."""
    return produce(
        toy or job(),
        root / "halves",
        Half,
        input_digest="i" * 64,
        code=code,
        shards=shards,
        engine=engine or Engine(),
        root=root / "work",
        **options,
    )


def noting(folder: Path) -> Halver:
    """The toy, with a file left in `folder` for each that was made, by its process's number."""
    worker = Halver()
    (folder / f"{os.getpid()}-{id(worker)}").touch()
    return worker


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def left(root: Path) -> list[str]:
    """What lies in the folder of the data and is not the data."""
    return sorted(path.name for path in root.iterdir() if path.name not in ("halves", "work"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("whole")
    make(root)
    return content(root / "halves")


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy computes nothing, and to set threads torch would have to be loaded."""
    monkeypatch.setattr(runner, "set_threads", lambda count: None)


# What follows is killed for good, in a process of its own.

_ticks = 0
_last = 0


def tick() -> None:
    """Count a step of the run; at the last one the process is killed."""
    global _ticks
    _ticks += 1
    if _ticks == _last:
        os.kill(os.getpid(), signal.SIGKILL)


def make_until(root: str, last: str) -> None:
    """Make the toy's data, dying at that step; 0 = never."""
    global _last

    def watch(event: str, args: tuple[Any, ...]) -> None:
        # Python's audit events come before the deed: opening, renaming, removing, a folder.
        if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and any(
            str(arg).startswith(root) for arg in args
        ):
            tick()

    runner.set_threads = lambda count: None
    sys.addaudithook(watch)
    _last = int(last)
    make(Path(root))


def runs(root: str, *moments: str) -> None:
    """A run after another, each in its own process, and what each came to, as a line of JSON."""
    with suppress(ImportError):
        import pandas  # noqa: F401  # as pyarrow does when it writes: not in every process anew
    for moment in moments:
        process = os.fork()
        if process == 0:
            make_until(root, moment)
            print(json.dumps({"steps": _ticks}), flush=True)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        told = {
            "status": status,
            "parts": len(list(Path(root).glob("work/halves/*/shards/part-*"))),
            "published": (Path(root) / "halves").exists(),
        }
        print(json.dumps(told), flush=True)


def start(function: str, *args: object, **options: Any) -> subprocess.Popen[str]:
    """A function of this file in a process of its own."""
    call = f"from tests.synthesis import toy as t; t.{function}{tuple(map(str, args))}"
    return subprocess.Popen(
        [sys.executable, "-c", call],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def told(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    """What `runs` came to."""
    out, problems = process.communicate(timeout=300)
    assert process.returncode == 0, problems
    return [json.loads(line) for line in out.splitlines()]


def hold(root: str) -> None:
    """Begin the toy's data, say so, and wait."""

    def rows(shard: int) -> range:
        print("begun", flush=True)
        sys.stdin.read()
        return numbers(shard)

    runner.set_threads = lambda count: None
    make(Path(root), job(rows=rows))
