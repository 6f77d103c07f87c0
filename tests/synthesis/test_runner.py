"""Proves that rows which fail or are refused cost their neighbours nothing, and that memory holds a
batch and not a shard. Needs no model: a toy worker stands in.
"""

import json
import os
import pickle
import shutil
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from insitu.errors import UserError
from insitu.records import ShardWriter, load_manifest, read, read_rejected
from insitu.synthesis import runner
from insitu.synthesis.runner import Engine, Job, Verdict, produce
from tests.synthesis.toy import (
    BATCH,
    CODE,
    OTHER_CODE,
    POISONED,
    ROWS,
    SHARDS,
    Half,
    Halver,
    content,
    job,
    left,
    make,
    no_threads,
    numbers,
    whole,
)

__all__ = ["no_threads", "whole"]


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


def test_a_job_can_be_sent_to_workers() -> None:
    sent = pickle.loads(pickle.dumps(job(partial(Halver, poisoned=frozenset({1})))))
    assert sent.make().poisoned == {1} and list(sent.rows(1)) == list(numbers(1))
