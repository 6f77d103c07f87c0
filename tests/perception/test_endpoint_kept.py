"""Proves that EndpointModel pays no answer twice: what was answered is kept, over processes and
kills, and a limit of cost loses nothing. Needs a loopback port.
"""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.perception.language import Question, Unanswered
from insitu.perception.language.cache import FILE
from insitu.perception.language.endpoint import Usage
from tests.perception import faulty_server
from tests.perception.faulty_server import (
    TOKENS_IN,
    TOKENS_OUT,
    Server,
    Verdict,
    connect,
    expected,
    picture,
    question,
    server,
)

__all__ = ["server"]


def test_equal_questions_are_asked_once(server: Server, tmp_path: Path) -> None:
    model = connect(server.url, tmp_path)
    with ThreadPoolExecutor(4) as callers:
        asked = [callers.submit(model.ask, [question(1), question(2)] * 3) for _ in range(4)]
        assert all(each.result() == [expected(1), expected(2)] * 3 for each in asked)
    assert server.judged == {"question 1": 1, "question 2": 1}
    assert model.usage.requests == model.usage.answers == 2


def test_what_changes_the_answer_changes_what_is_kept(server: Server, tmp_path: Path) -> None:
    class Other(Verdict):
        """The same fields, described otherwise."""

    tall = np.ascontiguousarray(picture(1).reshape(7, 5, 3))
    variants = [
        question(1),
        Question(images=(picture(2),), text="question 1", answer=Verdict),
        Question(images=(tall,), text="question 1", answer=Verdict),
        Question(images=(picture(1), picture(1)), text="question 1", answer=Verdict),
        Question(images=(), text="question 1", answer=Verdict),
        Question(images=(picture(1),), text="question 1", answer=Other),
    ]
    connect(server.url, tmp_path).ask(variants)
    assert len(server.bodies) == len(variants)
    for other in ({"max_tokens": 51}, {"revision": "2"}, {"model": "big"}, {"temperature": None}):
        model = connect(server.url, tmp_path, **other)
        model.ask([question(1)])
        assert model.usage.requests == 1
    assert model.name == "tiny"
    assert connect(server.url, tmp_path, revision="2").name == "tiny@2"


@pytest.mark.parametrize(
    "damaged", ['{"label": "ques', '{"label": 1, "score": 2}', b"\xff\xfe", None]
)
def test_a_damaged_answer_is_asked_again(damaged: object, server: Server, tmp_path: Path) -> None:
    connect(server.url, tmp_path).ask([question(1)])
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE answers SET answer = ?", (damaged,))
    db.close()
    for requests in (1, 0):
        model = connect(server.url, tmp_path)
        assert model.ask([question(1)]) == [expected(1)]
        assert model.usage.requests == requests


def test_a_file_that_is_no_cache_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database, but long enough to be looked at " * 9)
    with pytest.raises(UserError, match="cannot be read"):
        connect(server.url, tmp_path)


def test_two_at_once_share_a_cache(server: Server, tmp_path: Path) -> None:
    numbers = range(12)
    pair = [connect(server.url, tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as callers:
        for answers in callers.map(lambda m: m.ask([question(n) for n in numbers]), pair):
            assert answers == [expected(n) for n in numbers]
    last = connect(server.url, tmp_path)
    last.ask([question(n) for n in numbers])
    assert last.usage == Usage(cached=12)


def test_a_killed_process_is_continued(server: Server, tmp_path: Path) -> None:
    server.script["question 4"] = ["hold"]
    child = subprocess.Popen([sys.executable, faulty_server.__file__, server.url, str(tmp_path)])
    assert server.held.wait(300)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert server.judged == {f"question {n}": 1 for n in range(4)}

    model = connect(server.url, tmp_path)
    assert model.ask([question(n) for n in range(8)]) == [expected(n) for n in range(8)]
    assert server.judged == {f"question {n}": 1 for n in range(8)}
    assert (model.usage.cached, model.usage.requests) == (4, 4)


def test_cost_adds_up_and_its_limit_loses_nothing(server: Server, tmp_path: Path) -> None:
    prices = {"price_in": 2.0, "price_out": 30.0, "concurrency": 1}
    each = (TOKENS_IN * 2 + TOKENS_OUT * 30) / 1e6
    server.script["question 1"] = ["wrong"]
    model = connect(server.url, tmp_path, **prices, max_cost=2.5 * each)
    answers = model.ask([question(n) for n in range(4)])
    assert answers[:2] == [expected(0), expected(1)]
    assert all(isinstance(a, Unanswered) and "cost limit" in a.reason for a in answers[2:])
    assert model.usage.cost == pytest.approx(3 * each)  # the one thrown away is paid as well

    model = connect(server.url, tmp_path, **prices, max_cost=9 * each)
    assert model.ask([question(n) for n in range(4)]) == [expected(n) for n in range(4)]
    assert model.usage.requests == 2


def test_a_price_on_uncounted_tokens_is_refused_but_the_answer_kept(
    server: Server, tmp_path: Path
) -> None:
    server.counts_tokens = False
    with pytest.raises(UserError, match="how many tokens"):
        connect(server.url, tmp_path, price_in=1.0).ask([question(1)])
    assert connect(server.url, tmp_path).ask([question(1)]) == [expected(1)]
    assert len(server.bodies) == 1
