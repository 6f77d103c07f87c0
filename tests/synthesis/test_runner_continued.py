"""Proves that a stage's shards come out the same however often its run is stopped or killed.

Needs no model: a toy worker stands in. Kills are real (SIGKILL), of a process of its own, at
moments that are counted in what the run did, so no clock decides.
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.synthesis.runner import Job
from tests.synthesis.toy import (
    KILLS,
    OTHER_CODE,
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
    start,
    told,
    whole,
)

__all__ = ["no_threads", "whole"]


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
