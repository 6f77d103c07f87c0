"""Proves that a killed writer continues to the same bytes, that nothing foreign or half-written is
kept, and that readers refuse unfinished, foreign or damaged folders. Needs no model."""

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insitu.errors import UserError
from insitu.records import Record, Rejected, ShardWriter, read, read_rejected
from insitu.records.shards import ROWS_PER_GROUP


@dataclass(frozen=True, kw_only=True)
class Small(Record):
    score: float


@dataclass(frozen=True, kw_only=True)
class Other(Record):
    score: float


def write(
    folder: Path,
    shards: list[list[Any]],
    record_type: type[Record] = Small,
    input_digest: str = "inputs",
) -> None:
    """What a step does: the shards still missing, then the manifest."""
    writer: ShardWriter[Any] = ShardWriter(folder, record_type, input_digest)
    for index in writer.missing(len(shards)):
        with writer.shard(index) as shard:
            for row in shards[index]:
                if isinstance(row, Rejected):
                    shard.reject(row.record, filter=row.filter, score=row.score, reason=row.reason)
                else:
                    shard.keep(row)
    writer.finish(len(shards))


def smalls(count: int, every: int = 5) -> list[Any]:
    rows = [Small(id=f"s{i}", score=i / 8) for i in range(count)]
    return [
        Rejected(record=row, filter=f"filter {i % 2}", score=row.score, reason="low")
        if i % every == 0
        else row
        for i, row in enumerate(rows)
    ]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextmanager
def killed_at(rename: int) -> Iterator[None]:
    """Let the process "die" instead of making the nth rename: nothing after it happens."""
    done = 0
    real_replace, real_unlink = os.replace, Path.unlink

    def replace_until(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == rename:
            raise KeyboardInterrupt
        real_replace(source, target)

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if done < rename:
            real_unlink(path, missing_ok=missing_ok)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace_until)
        patch.setattr(Path, "unlink", unlink)
        yield


@settings(max_examples=25, deadline=None)
@given(
    shards=st.lists(st.builds(smalls, st.integers(0, 6), st.integers(1, 4)), max_size=3),
    kills=st.lists(st.integers(1, 7), min_size=1, max_size=3),
)
def test_killed_between_any_two_writes_it_continues_to_the_same_bytes(
    shards: list[list[Any]], kills: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        whole, interrupted = Path(name, "whole"), Path(name, "interrupted")
        write(whole, shards)
        for rename in kills:
            try:
                with killed_at(rename):
                    write(interrupted, shards)
            except KeyboardInterrupt:
                with pytest.raises(UserError, match="has not finished"):
                    read(interrupted, Small)
        write(interrupted, shards)
        assert content(interrupted) == content(whole)


def test_a_kept_shard_is_not_written_again(tmp_path: Path) -> None:
    with killed_at(3), pytest.raises(KeyboardInterrupt):
        write(tmp_path, [smalls(4), smalls(4)])
    before = (tmp_path / "part-00000.parquet").stat()
    assert ShardWriter(tmp_path, Small, "inputs").missing(2) == [1]
    after = (tmp_path / "part-00000.parquet").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_shards_of_other_inputs_are_not_kept(tmp_path: Path) -> None:
    # The fourth rename is the second shard's part: its rejected rows are there without it.
    with killed_at(4), pytest.raises(KeyboardInterrupt):
        write(tmp_path, [smalls(4), smalls(4)], input_digest="old")
    (tmp_path / "notes.txt").write_text("not a shard")
    assert ShardWriter(tmp_path, Small, "new").missing(2) == [0, 1]
    assert sorted(content(tmp_path)) == ["notes.txt"]


def test_a_shard_that_raises_leaves_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Small, "inputs")

    def stop_midway() -> None:
        with writer.shard(0) as shard:
            for i in range(ROWS_PER_GROUP + 1):
                shard.keep(Small(id=f"s{i}", score=0.0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stop_midway()
    assert content(tmp_path) == {}


def test_a_row_given_twice_is_refused(tmp_path: Path) -> None:
    row = Small(id="a", score=0.0)
    with pytest.raises(UserError, match="Two rows with the id 'a'"):
        write(tmp_path, [[row, Rejected(record=row, filter="clip", score=0.1, reason="low")]])
    assert content(tmp_path) == {}


def test_a_finished_folder_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, [smalls(4)])
    before = content(tmp_path)
    write(tmp_path, [smalls(4)])
    assert content(tmp_path) == before
    with pytest.raises(UserError, match="finished, from input inputs"):
        ShardWriter(tmp_path, Small, "other")
    with pytest.raises(UserError, match="finished folder of Small"):
        ShardWriter(tmp_path, Other, "inputs")
    writer = ShardWriter(tmp_path, Small, "inputs")
    assert writer.finished
    with pytest.raises(UserError, match="folder is finished"), writer.shard(0):
        pass
    assert content(tmp_path) == before


def test_a_finished_folder_that_lost_a_shard_is_completed_again(tmp_path: Path) -> None:
    write(tmp_path, [smalls(4), smalls(4)])
    before = content(tmp_path)
    (tmp_path / "rejected-00001.parquet").unlink()
    write(tmp_path, [smalls(4), smalls(4)])
    assert content(tmp_path) == before


def test_finish_refuses_missing_and_surplus_shards(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Small, "inputs")
    for index in (0, 2):
        with writer.shard(index):
            pass
    with pytest.raises(UserError, match=r"missing \[1\]"):
        writer.finish(3)
    with pytest.raises(UserError, match=r"also \[2\]"):
        writer.finish(1)
    assert not writer.finished


def test_a_writer_can_be_sent_to_workers(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, Small, "inputs")
    with writer.shard(0) as open_here:
        with pickle.loads(pickle.dumps(writer)).shard(1) as open_there:
            open_there.keep(Small(id="b", score=1.0))
        open_here.keep(Small(id="a", score=0.0))
    writer.finish(2)
    assert [row.id for row in read(tmp_path, Small)] == ["a", "b"]
    assert [row.id for row in read(tmp_path, Small, shards=[1])] == ["b"]


def test_equal_rows_give_equal_bytes_and_the_manifest_describes_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write(first, [smalls(12)])
    write(second, [smalls(12)])
    files = content(first)
    assert files == content(second)
    manifest = json.loads(files["manifest.json"])
    assert manifest["record_type"] == "Small"
    assert manifest["input_digest"] == "inputs"
    assert manifest["rejected_by_filter"] == {"filter 0": 2, "filter 1": 1}
    (shard,) = manifest["shards"]
    assert (shard["rows"], shard["rejected"]["rows"]) == (9, 3)
    for entry in (shard, shard["rejected"]):
        assert entry["sha256"] == hashlib.sha256(files[entry["file"]]).hexdigest()


def test_row_groups_are_bounded_so_that_memory_is(tmp_path: Path) -> None:
    rows = smalls(3 * ROWS_PER_GROUP + 7, every=2)
    write(tmp_path, [rows])
    for name in ("part", "rejected"):
        footer = pq.read_metadata(tmp_path / f"{name}-00000.parquet")
        sizes = [footer.row_group(i).num_rows for i in range(footer.num_row_groups)]
        assert sizes[:-1] == [ROWS_PER_GROUP] * (len(sizes) - 1)
        assert 0 < sizes[-1] <= ROWS_PER_GROUP
    assert len(list(read(tmp_path, Small))) + len(list(read_rejected(tmp_path, Small))) == len(rows)


@pytest.mark.parametrize("name", ["part-00001.parquet", "rejected-00000.parquet"])
def test_damage_is_refused_before_the_first_row(tmp_path: Path, name: str) -> None:
    write(tmp_path, [smalls(4), smalls(4)])
    reader = read if name.startswith("part") else read_rejected
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / name).write_bytes(damaged)
    with pytest.raises(UserError, match=rf"{name}.*not what was written"):
        reader(tmp_path, Small)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=rf"{name}.*is missing"):
        reader(tmp_path, Small)
    other = 1 - int(name[-9])
    assert list(reader(tmp_path, Small, shards=[other]))


def test_a_manifest_naming_files_elsewhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [smalls(4)])
    manifest = tmp_path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("part-00000", "../part-00000"))
    with pytest.raises(UserError, match=r"damaged.*shards\.0\.file"):
        read(tmp_path, Small)


def test_other_types_and_schemas_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [smalls(4)])

    def changed() -> type[Record]:
        @dataclass(frozen=True, kw_only=True)
        class Small(Record):
            score: float | None

        return Small

    with pytest.raises(UserError, match="It holds Small records"):
        read(tmp_path, Other)
    with pytest.raises(UserError, match="other fields or types"):
        read(tmp_path, changed())
    with pytest.raises(UserError, match=r"Shards \[1\]"):
        read(tmp_path, Small, shards=[1])
