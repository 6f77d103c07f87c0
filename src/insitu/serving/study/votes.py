"""Votes in a file of JSON lines, to which lines are only ever added.

A vote counts once its line is on disk, with its end; a voter who changes a vote adds another line.
"""

import fcntl
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Self

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError, model_validator

from insitu.errors import UserError
from insitu.serving.study.folder import Name, Part, Study, told

Key = tuple[str, str, str]
"""Voter, item, question."""


class Vote(Part):
    """A choice.

    Attributes:
        voter: a random id, which no voter gets to see.
        name: what the voter wants to be called, if anything.
        way: the way chosen; None for no difference.
        shown: the ways in the order they were shown, from the left.
        time: when it came in, in UTC.
    """

    voter: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22}$")]
    name: Annotated[str, StringConstraints(max_length=80)] = ""
    item: Name
    question: Name
    way: Name | None
    shown: Annotated[tuple[Name, ...], Field(min_length=2)]
    time: AwareDatetime

    @model_validator(mode="after")
    def _was_shown(self) -> Self:
        if self.way is not None and self.way not in self.shown:
            raise ValueError("the way chosen was not shown")
        return self


def append(path: Path, vote: Vote) -> None:
    """Add a vote and return when it is on disk. Any number of processes may do so at once.

    Raises:
        UserError: the file cannot be written.
    """
    line = vote.model_dump_json().encode() + b"\n"
    try:
        with _locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, fcntl.LOCK_EX) as file:
            fresh = not os.fstat(file).st_size
            _end_last_line(file, path)
            written = os.write(file, line)
            if written != len(line):  # the disk is full
                os.ftruncate(file, os.fstat(file).st_size - written)
                raise OSError(None, "not the whole line could be written")
            os.fsync(file)
        if fresh:  # its name, too, has to be on disk
            with _opened(path.parent) as parent:
                os.fsync(parent)
    except OSError as error:
        raise UserError(
            f"A vote was to be added to {path}.",
            f"It cannot be written: {error.strerror}.",
            "Free the disk or its permissions, then vote again.",
        ) from None


def read(path: Path) -> tuple[Vote, ...]:
    """All votes in the order they came; none where there is no file.

    A last line that was cut off is passed over with a warning: its voter was never told that it
    was stored.

    Raises:
        UserError: the file cannot be read, or another line is no vote.
    """
    if not path.exists():
        return ()
    try:
        with (
            _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as file,
            os.fdopen(os.dup(file), "rb") as opened,
        ):
            lines = opened.read().split(b"\n")
    except OSError as error:
        raise UserError(
            f"The votes file {path} was given.",
            f"It cannot be read: {error.strerror}.",
            "Give the file that `insitu study serve` wrote.",
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line and number == len(lines):
            break
        try:
            found.append(Vote.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines):
                _warn(path)
                break
            raise UserError(
                f"The votes file {path} was given.",
                f"Line {number} is no vote: {told(error)}.",
                "Restore the file, or take that line out.",
            ) from None
    return tuple(found)


def latest(votes: Iterable[Vote]) -> dict[Key, Vote]:
    """Of each voter, item and question the last vote, which is the one that counts."""
    return {(vote.voter, vote.item, vote.question): vote for vote in votes}


def check(votes: Iterable[Vote], study: Study, path: Path) -> None:
    """That votes are a study's.

    Raises:
        UserError: one names an item, question or ways that the study has not.
    """
    items = {item.id for item in study.items}
    questions = {question.id for question in study.questions}
    for vote in votes:
        for what, name, known in (
            ("item", vote.item, vote.item in items),
            ("question", vote.question, vote.question in questions),
            ("ways", ", ".join(vote.shown), sorted(vote.shown) == sorted(study.ways)),
        ):
            if not known:
                raise UserError(
                    f"The votes file {path} was given with the study {study.title!r}.",
                    f"A vote names the {what} {name!r}, which the study has not.",
                    "Give the study's own votes: a study that has votes is not changed any more.",
                )


@contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path, flags) as file:  # closing it gives the lock back
        fcntl.flock(file, lock)
        yield file


@contextmanager
def _opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    file = os.open(path, flags, 0o644)
    try:
        yield file
    finally:
        os.close(file)


def _end_last_line(file: int, path: Path) -> None:
    """Cut off what a crash left of a line, or end a whole one that lacks its end."""
    size = os.fstat(file).st_size
    if not size or os.pread(file, 1, size - 1) == b"\n":
        return
    content = os.pread(file, size, 0)
    start = content.rfind(b"\n") + 1
    try:
        Vote.model_validate_json(content[start:])
        os.write(file, b"\n")
    except ValidationError:
        _warn(path)
        os.ftruncate(file, start)


def _warn(path: Path) -> None:
    warnings.warn(f"The last line of {path} is cut off, and is no vote.", stacklevel=3)
