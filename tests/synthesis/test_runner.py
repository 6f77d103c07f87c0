"""Proves that a stage's shards come out the same however often its run is killed, that rows which
fail or are refused cost their neighbours nothing, and that memory holds a batch and not a shard.

Needs no model: a toy worker stands in. Kills are real (SIGKILL), of a process of its own, at
moments that are counted in what the run did, so no clock decides.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.records import Manifest, Record, ShardWriter, load_manifest, read, read_rejected
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


def test_a_shard_of_input_is_a_shard_of_output(tmp_path: Path) -> None:
    manifest = make(tmp_path)
    folder = tmp_path / "halves"
    assert load_manifest(folder) == manifest and len(manifest.shards) == SHARDS
    for index in range(SHARDS):
        kept = [row.id for row in read(folder, Half, shards=[index])]
        refused = [row.id for row in read_rejected(folder, Half, shards=[index])]
        own = [n for n in numbers(index) if n not in POISONED]
        assert refused == [f"n{n}" for n in own if n % 5 == 0]
        assert [i for i in kept if "again" not in i] == [f"n{n}" for n in own if n % 5]
        assert [i for i in kept if "again" in i] == [f"n{n}-again" for n in own if n % 13 == 0]
    assert left(tmp_path) == []


def test_a_poisoned_row_is_set_aside_with_its_error_and_its_neighbours_stay(
    tmp_path: Path,
) -> None:
    manifest = make(tmp_path)
    assert [(row.id, row.error) for row in manifest.set_aside] == [
        (f"number {n}", f"ZeroDivisionError: {n} is poisoned") for n in sorted(POISONED)
    ]
    kept = {row.id for row in read(tmp_path / "halves", Half)}
    assert {"n8", "n29", "n32", "n76", "n78"} <= kept
    assert kept.isdisjoint({f"n{n}" for n in POISONED})
    assert manifest.rows + manifest.rejected_rows == SHARDS * ROWS - len(POISONED) + 7


def test_a_rejected_row_keeps_filter_score_and_reason(tmp_path: Path) -> None:
    manifest = make(tmp_path, shards=2)
    rows = list(read_rejected(tmp_path / "halves", Half))
    assert [(r.record, r.filter, r.score, r.reason) for r in rows] == [
        (Half(id=f"n{n}", half=n / 2), "fives", n / 2, f"{n} = 5k") for n in (0, 5, 10)
    ]
    assert manifest.rejected_by_filter == {"fives": 3}


def test_without_failures_the_manifest_is_what_it_always_was(tmp_path: Path) -> None:
    make(tmp_path, job(partial(Halver, poisoned=frozenset())), shards=2)
    assert list(json.loads(content(tmp_path / "halves")["manifest.json"])) == [
        "record_type", "schema_fingerprint", "input_digest", "insitu_version", "rows",
        "rejected_rows", "rejected_by_filter", "shards",
    ]  # fmt: skip


def test_a_shard_of_failures_stops_the_run_and_nothing_is_published(tmp_path: Path) -> None:
    toy = job(partial(Halver, poisoned=frozenset(numbers(1))))
    with pytest.raises(UserError) as stopped:
        make(tmp_path, toy, shards=3)
    error = stopped.value
    assert "Shard 1 of 7 rows" in error.given
    assert "ZeroDivisionError: 13 is poisoned" in error.why and "again" in error.todo
    assert not (tmp_path / "halves").exists() and left(tmp_path) == []
    # What was finished before it stays, and the rest follows once the fault is mended.
    (folder,) = (tmp_path / "work" / "halves").glob("*/shards")
    assert "part-00000.parquet" in content(folder) and "part-00001.parquet" not in content(folder)
    worker = Halver(poisoned=frozenset())
    make(tmp_path, job(lambda: worker), shards=3)
    assert worker.seen[0][0] == ROWS


def test_a_shard_without_rows_is_no_failure(tmp_path: Path) -> None:
    manifest = make(tmp_path, job(rows=lambda shard: ()), shards=2)
    assert manifest.rows == 0 and len(manifest.shards) == 2


def test_what_is_no_error_of_a_row_is_not_set_aside(tmp_path: Path) -> None:
    def interrupted(numbers: Sequence[int]) -> Iterable[Verdict[Half]]:
        raise KeyboardInterrupt

    def broken_rows(shard: int) -> Iterator[int]:
        yield 1
        raise OSError("the input is damaged")

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, job(lambda: interrupted))
    with pytest.raises(OSError, match="damaged"):
        make(tmp_path, job(rows=broken_rows))
    assert not (tmp_path / "halves").exists()


def test_models_are_loaded_once_and_not_at_all_when_nothing_is_missing(tmp_path: Path) -> None:
    made: list[Halver] = []

    def load() -> Halver:
        made.append(Halver())
        return made[-1]

    writer = ShardWriter(tmp_path / "shards", Half, "inputs")
    runner.run(job(load), writer, SHARDS, Engine())
    assert len(made) == 1 and len(made[0].seen) > SHARDS
    runner.run(job(load), writer, SHARDS, Engine())
    writer.finish(SHARDS)
    runner.run(job(load), writer, SHARDS, Engine())
    assert len(made) == 1


class Heavy:
    """A row that knows how many of its kind are alive."""

    def __init__(self, number: int, alive: "weakref.WeakSet[Heavy]") -> None:
        self.number = number
        alive.add(self)


def test_rows_are_not_read_ahead_and_few_are_alive_at_a_time(tmp_path: Path) -> None:
    alive: weakref.WeakSet[Heavy] = weakref.WeakSet()
    drawn, handed, most = 0, 0, 0

    def heavy(shard: int) -> Iterator[Heavy]:
        nonlocal drawn, most
        for number in range(100):
            drawn += 1
            yield Heavy(number, alive)
            most = max(most, len(alive))

    def worker(rows: Sequence[Heavy]) -> Iterator[Verdict[Half]]:
        nonlocal handed
        handed += len(rows)
        assert drawn == handed  # not one more was read than this batch
        for row in rows:
            yield Verdict(record=Half(id=str(row.number), half=0.0))

    toy: Job[Heavy, Half] = Job(
        make=lambda: worker, rows=heavy, name=lambda row: str(row.number), batch=BATCH
    )
    runner.run(toy, ShardWriter(tmp_path, Half, "inputs"), 1, Engine())
    assert handed == 100
    assert most <= 2 * BATCH  # the next batch is read while the last one is let go


def test_a_finished_target_is_replaced_whole(tmp_path: Path, whole: dict[str, bytes]) -> None:
    target = tmp_path / "halves"
    target.mkdir()
    (target / "part-00099.parquet").write_bytes(b"of another run")

    def finish(folder: Path) -> None:
        assert content(target) == {"part-00099.parquet": b"of another run"}
        assert (folder / "manifest.json").exists()
        (folder / "card.md").write_text("what these are")

    make(tmp_path, finish=finish)
    assert content(target) == whole | {"card.md": b"what these are"}
    assert left(tmp_path) == []

    def failing(folder: Path) -> None:
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        make(tmp_path, shards=1, code=OTHER_CODE, finish=failing)
    assert content(target) == whole | {"card.md": b"what these are"}


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_work_and_data_may_lie_on_different_file_systems(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    elsewhere = Path(f"/dev/shm/insitu-test-{os.getpid()}")
    if elsewhere.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("both are one file system here")
    try:
        (tmp_path / "halves").mkdir()
        (tmp_path / "halves" / "old").touch()
        produce(
            job(), tmp_path / "halves", Half, input_digest="i" * 64, code=CODE, shards=SHARDS,
            engine=Engine(), root=elsewhere,
        )  # fmt: skip
        assert content(tmp_path / "halves") == whole and left(tmp_path) == []
        assert list(elsewhere.glob("*/*/shards")) == []
    finally:
        shutil.rmtree(elsewhere, ignore_errors=True)


def interrupted_at(shard: int) -> Job[int, Half]:
    """A run that is stopped by hand when it comes to that shard."""

    def rows(index: int) -> range:
        if index == shard:
            raise KeyboardInterrupt
        return numbers(index)

    return job(rows=rows)


def test_a_stopped_run_continues_and_leaves_finished_shards_alone(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, interrupted_at(5))
    (folder,) = (tmp_path / "work" / "halves").glob("*/shards")
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}
    assert sum(name.startswith("part") for name in before) == 5
    worker = Halver()
    make(tmp_path, job(lambda: worker))
    assert worker.seen[0][0] == 5 * ROWS
    target = tmp_path / "halves"
    after = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in target.iterdir()}
    assert before.items() <= after.items()
    assert content(target) == whole


def test_what_other_code_began_is_not_continued(tmp_path: Path, whole: dict[str, bytes]) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, interrupted_at(5))
    worker = Halver()
    make(tmp_path, job(lambda: worker), code=OTHER_CODE)
    assert worker.seen[0][0] == 0
    assert content(tmp_path / "halves") == whole


def test_stopped_before_any_rename_it_ends_the_same(
    tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the files of a shard, before and after the manifest, and while data are replaced."""
    shards, real = 2, os.replace
    make(tmp_path / "sound", shards=shards)
    wanted = content(tmp_path / "sound" / "halves")
    renames = 0

    def replace_until(source: Any, target: Any) -> None:
        nonlocal renames
        renames -= 1
        if renames == 0:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_until)
    stops = 0
    for at in range(1, 20):
        root = tmp_path / str(at)
        (root / "halves").mkdir(parents=True)
        (root / "halves" / "old").touch()
        renames = at
        try:
            make(root, shards=shards)
        except KeyboardInterrupt:
            stops += 1
            assert set(content(root / "halves")) == {"old"}
            make(root, shards=shards)
        assert content(root / "halves") == wanted and left(root) == []
    # Two files of either shard, the manifest, the old data away, the new data there.
    assert stops == 7


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
    call = f"from tests.synthesis import test_runner as t; t.{function}{tuple(map(str, args))}"
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


def test_ten_times_killed_it_ends_in_the_same_bytes(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    undisturbed, _ = told(start("runs", tmp_path / "undisturbed", 0))
    assert content(tmp_path / "undisturbed" / "halves") == whole
    # Moments anywhere in a fifth of the run, so that ten of them come before its end.
    moments = np.random.default_rng(1).integers(1, undisturbed["steps"] // 5, KILLS)
    *killed, _, last = told(start("runs", tmp_path, *moments, 0))
    assert [(run["status"], run["published"]) for run in killed] == [
        (-signal.SIGKILL, False)
    ] * KILLS
    parts = [run["parts"] for run in killed]
    assert parts == sorted(parts) and 0 < parts[-1] < SHARDS
    assert last == {"status": 0, "parts": 0, "published": True}
    assert content(tmp_path / "halves") == whole
    assert left(tmp_path) == ["undisturbed"]


def hold(root: str) -> None:
    """Begin the toy's data, say so, and wait."""

    def rows(shard: int) -> range:
        print("begun", flush=True)
        sys.stdin.read()
        return numbers(shard)

    runner.set_threads = lambda count: None
    make(Path(root), job(rows=rows))


def test_a_second_process_at_the_same_work_is_refused(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    holder = start("hold", tmp_path, stdin=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "begun\n"
        with pytest.raises(UserError, match="Another process is at it"):
            make(tmp_path)
        make(tmp_path, code=OTHER_CODE)  # other work is free
    finally:
        holder.kill()
        holder.communicate()
    make(tmp_path)  # with its holder the lease is gone
    assert content(tmp_path / "halves") == whole


def test_a_job_can_be_sent_to_workers() -> None:
    sent = pickle.loads(pickle.dumps(job(partial(Halver, poisoned=frozenset({1})))))
    assert sent.make().poisoned == {1} and list(sent.rows(1)) == list(numbers(1))
