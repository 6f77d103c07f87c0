"""Proves that EndpointModel loses no answer and mixes none up, whatever the server does.

Needs a loopback port, where a real HTTP server misbehaves by script; no network, no model. Waits
are injected, so nothing here depends on how fast the machine is.
"""

import threading
import time
from pathlib import Path

import pytest

from insitu.perception.language import Unanswered
from insitu.perception.language.endpoint import Usage
from tests.perception.faulty_server import (
    KEY,
    TOKENS_IN,
    TOKENS_OUT,
    Server,
    Verdict,
    connect,
    expected,
    question,
    server,
)

__all__ = ["server"]


def test_whatever_goes_wrong_every_question_is_answered_once_and_in_order(
    server: Server, tmp_path: Path
) -> None:
    failures = ["429 after 3", "500", "503", "408", "409", "drop", "half", "wrong", "empty", "html",
                "no choices", "odd choices", "surrogate", "prose"]  # fmt: skip
    server.script = {f"question {n}": [failure] for n, failure in enumerate(failures)}
    server.script["question 20"] = ["500", "half", "drop", "wrong"]
    model = connect(server.url, tmp_path)
    numbers = range(24)

    assert model.ask([question(n) for n in numbers]) == [expected(n) for n in numbers]
    assert server.judged == {f"question {n}": 1 for n in numbers}
    assert server.keys == {f"Bearer {KEY}"}

    thrown_away = 6  # half, wrong, empty, surrogate; half and wrong of question 20
    failed = len(failures) - 1 + 4
    assert model.usage == Usage(
        requests=24 + failed,
        answers=24,
        retries=failed,
        tokens_in=TOKENS_IN * (24 + thrown_away),
        tokens_out=TOKENS_OUT * (24 + thrown_away),
    )

    again = connect("http://127.0.0.1:9/moved/v1", tmp_path)
    assert again.ask([question(n) for n in reversed(numbers)]) == [
        expected(n) for n in reversed(numbers)
    ]
    assert again.usage == Usage(cached=24)
    assert len(server.bodies) == 24 + failed
    assert again.ask([]) == []


def test_a_silent_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.script["question 1"] = ["hold"]
    model = connect(server.url, tmp_path, timeout_s=1.0, tries=50)
    assert model.ask([question(1)]) == [expected(1)]
    assert model.usage.retries >= 1


def test_a_question_without_an_answer_leaves_its_neighbours_alone(
    server: Server, tmp_path: Path
) -> None:
    server.script = {
        "question 1": ["500"] * 3,
        "question 2": ["half", "wrong", "wrong"],
        "question 3": ["413"],
        "question 4": ["429 after 3600"],
    }
    model = connect(server.url, tmp_path, tries=3)
    first, *failed, last = model.ask([question(n) for n in range(6)])
    assert (first, last) == (expected(0), expected(5))
    reasons = [answer.reason for answer in failed if isinstance(answer, Unanswered)]
    said = ("answered 500", "score: Input should be a valid integer", "413", "3600 s")
    assert len(reasons) == 4
    assert all(words in reason for words, reason in zip(said, reasons, strict=True))
    assert model.usage.requests == 2 + 3 + 3 + 1 + 1

    # What failed is not kept: it can be asked again.
    assert model.ask([question(n) for n in range(6)]) == [expected(n) for n in range(6)]
    assert model.usage.cached == 2


def test_waits_grow_and_a_server_that_asks_for_longer_is_heeded(
    server: Server, tmp_path: Path
) -> None:
    waits: list[float] = []
    server.script["question 1"] = ["500", "503", "429 after 30", "500"]
    model = connect(
        server.url, tmp_path, sleep=waits.append, draw=lambda: 1.0, clock=iter(range(99)).__next__
    )
    assert model.ask([question(1)]) == [expected(1)]
    assert waits == [1, 2, 30, 8]

    waits.clear()
    server.script["question 2"] = ["500"] * 9
    model = connect(
        server.url, tmp_path, sleep=waits.append, draw=lambda: 0.0, clock=iter(range(99)).__next__,
        tries=9,
    )  # fmt: skip
    assert isinstance(model.ask([question(2)])[0], Unanswered)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]  # and none after the last try


def test_the_model_is_told_what_was_wrong(server: Server, tmp_path: Path) -> None:
    server.script["question 1"] = ["wrong", "empty", "cut"]
    assert connect(server.url, tmp_path).ask([question(1)]) == [expected(1)]
    first, second, third, fourth = (body["messages"] for body in server.bodies)
    assert [turn["role"] for turn in first] == ["user"]
    assert [turn["role"] for turn in second] == ["user", "assistant", "user"]
    assert "many" in second[1]["content"]
    assert "score: Input should be a valid integer" in second[2]["content"]
    assert [turn["role"] for turn in third] == ["user", "user"]
    assert "no JSON object" in third[1]["content"]
    assert "cut off after 50 tokens" in fourth[2]["content"]


@pytest.mark.parametrize("limit", [1, 3])
def test_concurrency_reaches_its_limit_and_never_passes_it(
    limit: int, server: Server, tmp_path: Path
) -> None:
    full = threading.Barrier(limit, timeout=300)

    def linger() -> None:
        full.wait()
        # One too many would come now; on a slow machine it may come unseen, never falsely.
        time.sleep(0.05)

    server.before_answer = linger
    model = connect(server.url, tmp_path, concurrency=limit)
    assert model.ask([question(n) for n in range(9)]) == [expected(n) for n in range(9)]
    assert server.peak == limit


def test_a_server_without_response_format_is_found_out_once(server: Server, tmp_path: Path) -> None:
    server.refuses_format = True
    model = connect(server.url, tmp_path, concurrency=1, tries=1)
    assert model.ask([question(n) for n in range(3)]) == [expected(n) for n in range(3)]
    assert ["response_format" in body for body in server.bodies] == [True, False, False, False]


def test_a_bad_request_does_not_cost_the_others_their_format(
    server: Server, tmp_path: Path
) -> None:
    server.script["question 0"] = ["400", "400"]
    model = connect(server.url, tmp_path, concurrency=1)
    bad, good = model.ask([question(0), question(1)])
    assert isinstance(bad, Unanswered) and good == expected(1)
    form = server.bodies[-1]["response_format"]
    assert form["json_schema"]["schema"] == Verdict.model_json_schema()
