"""Proves that processes side by side do every piece, load once each, and fail alone."""

import functools
import os
import signal
from pathlib import Path

import pytest

from insitu.errors import UserError
from pipelines import _fleet

REFUSED = UserError("A piece was given.", "It cannot be done.", "Give another.")


def start(log: Path) -> _fleet.Do:
    """Notes that it loaded; pieces note who did them, unless their name says how they fail."""
    note(log, f"loaded {os.getpid()}")
    return functools.partial(do, log)


def do(log: Path, piece: str) -> None:
    if piece == "refused":
        raise REFUSED
    if piece == "broken":
        raise RuntimeError("a bug")
    if piece == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    note(log, f"{piece} {os.getpid()}")


def start_once_there(flag: Path) -> _fleet.Do:
    if not flag.exists():
        flag.touch()
        raise REFUSED
    return lambda piece: None


def note(log: Path, line: str) -> None:
    with log.open("a") as file:
        file.write(f"{line}\n")


def noted(log: Path) -> list[list[str]]:
    return [line.split() for line in log.read_text().splitlines()]


def run(log: Path, *pieces: str, workers: int = 2) -> dict[str, UserError | None]:
    return dict(_fleet.run(pieces, functools.partial(start, log), workers=workers, threads=1))


def test_each_process_loads_once_and_goes_on_to_the_next_piece(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pieces = [f"piece-{number}" for number in range(6)]
    assert run(log, *pieces) == dict.fromkeys(pieces)
    lines = noted(log)
    assert sorted(name for name, _ in lines if name != "loaded") == pieces
    assert len([1 for name, _ in lines if name == "loaded"]) == len({pid for _, pid in lines}) <= 2
    assert str(os.getpid()) not in {pid for _, pid in lines}


def test_there_are_no_more_processes_than_pieces(tmp_path: Path) -> None:
    run(tmp_path / "log", "only", workers=8)
    assert [name for name, _ in noted(tmp_path / "log")] == ["loaded", "only"]


def test_one_that_fails_or_dies_takes_no_other_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pieces = ["refused", "killed", "a", "broken", "b"]
    done = run(tmp_path / "log", *pieces)
    assert set(done) == set(pieces)
    assert done["a"] is None and done["b"] is None
    assert str(done["refused"]) == str(REFUSED)
    assert "ended with SIGKILL" in str(done["killed"]) and "memory" in str(done["killed"])
    assert "ended with exit status 1" in str(done["broken"])
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_process_that_could_not_begin_tries_again_with_the_next_piece(tmp_path: Path) -> None:
    begin = functools.partial(start_once_there, tmp_path / "flag")
    done = dict(_fleet.run(["a", "b"], begin, workers=1, threads=1))
    assert str(done["a"]) == str(REFUSED) and done["b"] is None


def test_processes_share_out_the_gpus_that_this_one_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(_fleet.DEVICES, raising=False)
    assert [_fleet.visible(number, 2) for number in range(3)] == ["0", "1", "0"]
    monkeypatch.setenv(_fleet.DEVICES, "3,GPU-5")
    assert [_fleet.visible(number, 2) for number in range(3)] == ["3", "GPU-5", "3"]
