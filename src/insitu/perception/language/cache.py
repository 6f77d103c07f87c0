"""Answers kept by what was asked, in one SQLite file that several processes share."""

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import numpy as np

from insitu.errors import UserError
from insitu.perception.language import Question, prompt

T = TypeVar("T")
FILE = "answers.sqlite"
LOCK_S = 60.0  # how long a process waits for another one's write, which takes milliseconds


def key_of(question: Question, *asked_of: str | float | None) -> str:
    """SHA-256 over the question as a model sees it and over whom it is asked of, 64 hex digits.

    Pixels count, not files: the same picture under another name or encoding is the same question.
    """
    pictures = [
        [image.shape, hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()]
        for image in question.images
    ]
    whole = json.dumps([asked_of, prompt(question), pictures])
    return hashlib.sha256(whole.encode()).hexdigest()


class AnswerCache:
    """Text by key; each one is on disk when `put` returns, so a killed process loses none.

    A connection lives for one statement only: none is shared by threads or carried over a fork.
    SQLite's rollback journal stays on, since it keeps everything in one file once nobody writes.
    """

    def __init__(self, folder: Path) -> None:
        """Open or create the file in `folder`.

        Raises:
            UserError: the file there is not a cache.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / FILE
        try:
            self._run(
                lambda db: db.execute(
                    "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)"
                )
            )
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"The answers kept in {self.file} cannot be read.",
                f"SQLite says: {error}.",
                "Move the file away to ask everything again, or name another cache folder.",
            ) from None

    def get(self, key: str) -> str | None:
        """Return what is kept under a key."""
        query = "SELECT answer FROM answers WHERE key = ?"
        row = self._run(lambda db: db.execute(query, (key,)).fetchone())
        return None if row is None else str(row[0])

    def put(self, key: str, answer: str) -> None:
        """Keep an answer in place of what was kept under its key."""
        statement = "INSERT OR REPLACE INTO answers VALUES (?, ?)"
        self._run(lambda db: db.execute(statement, (key, answer)))

    def _run(self, use: Callable[[sqlite3.Connection], T]) -> T:
        # isolation_level=None: each statement is its own transaction, durable when it returns.
        with closing(sqlite3.connect(self.file, timeout=LOCK_S, isolation_level=None)) as db:
            # Damaged text is for the reader to refuse, like any other that does not fit.
            db.text_factory = lambda raw: raw.decode(errors="replace")
            return use(db)
