"""Proves that EndpointModel loses no answer, pays none twice and reveals no key.

Needs a loopback port, where a real HTTP server misbehaves by script; no network, no model. Waits
are injected, so nothing here depends on how fast the machine is.
"""

import base64
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from insitu.errors import UserError
from insitu.params.language import Endpoint
from insitu.perception.language import Question, Unanswered, find_object, parse
from insitu.perception.language.cache import FILE
from insitu.perception.language.connection import Pace, asked_wait_s
from insitu.perception.language.endpoint import EndpointModel, Usage

KEY = "sk-0123456789-not-to-be-seen"
TOKENS_IN, TOKENS_OUT = 100, 10


class Verdict(BaseModel):
    """What is asked for: the question's own text back, and a corner pixel's red."""

    label: str
    score: Annotated[int, Field(ge=0, le=255)]


class Server(ThreadingHTTPServer):
    """Speaks chat completions; `script` lists, by question, what goes wrong before it answers."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.script: dict[str, list[str]] = {}
        self.judged: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.in_flight = self.peak = 0
        self.refuses_format = False
        self.counts_tokens = True
        self.before_answer: Callable[[], object] = lambda: None
        self.held = threading.Event()  # set once a request meets "hold"
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        *pictures, words = body["messages"][0]["content"]
        text = words["text"].partition("\n\n")[0]
        with server.lock:
            server.bodies.append(body)
            server.keys.add(self.headers["Authorization"])
            server.in_flight += 1
            server.peak = max(server.peak, server.in_flight)
            steps = server.script.get(text, [])
            step = steps.pop(0) if steps else "answer"
            if server.refuses_format and "response_format" in body:
                step = "400"
        try:
            server.before_answer()
        finally:
            with server.lock:
                server.in_flight -= 1
        self.act(step, text, pictures)

    def act(self, step: str, text: str, pictures: list[Any]) -> None:
        status, _, retry_after = step.partition(" after ")
        if status == "hold":
            self.server.held.set()
            self.connection.recv(1)  # returns when the client has gone
            self.close_connection = True
        elif status == "drop":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
            self.close_connection = True
        elif status == "html":
            self.reply(200, "<p>a proxy's page</p>", "text/html")
        elif status == "no choices":
            self.reply(200, json.dumps({"error": {"message": "upstream"}}))
        elif status == "odd choices":
            self.reply(200, json.dumps({"choices": [{"message": "hello"}]}))
        elif status.isdecimal():
            said = json.dumps({"error": {"message": f"{status}: your key {KEY} is odd"}})
            self.reply(int(status), said, retry_after=retry_after)
        else:
            red = [_corner(picture["image_url"]["url"]) for picture in pictures]
            answer = {"label": text, "score": red[0] if red else 0}
            written = {
                "answer": json.dumps(answer),
                "prose": f"A draft {{x}} first.\n```json\n{json.dumps(answer)}\n```\nThere.",
                "half": json.dumps(answer)[:-4],
                "wrong": json.dumps(answer | {"score": "many"}),
                "empty": "",
                "cut": json.dumps(answer)[:-4],
                "surrogate": "\ud800",
            }[status]
            if status in ("answer", "prose"):
                with self.server.lock:
                    self.server.judged[text] += 1
            end = "length" if status == "cut" else "stop"
            self.reply(200, json.dumps(self.completion(written, end)))

    def completion(self, written: str, end: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": written}
        usage = {
            "prompt_tokens": TOKENS_IN, "completion_tokens": TOKENS_OUT,
            "total_tokens": TOKENS_IN + TOKENS_OUT,
        }  # fmt: skip
        return {
            "id": "1", "object": "chat.completion", "created": 0, "model": "tiny",
            "choices": [{"index": 0, "message": message, "finish_reason": end}],
        } | ({"usage": usage} if self.server.counts_tokens else {})  # fmt: skip

    def reply(
        self, status: int, text: str, kind: str = "application/json", retry_after: str = ""
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


def _corner(url: str) -> int:
    png = base64.b64decode(url.removeprefix("data:image/png;base64,"))
    return int(np.asarray(Image.open(io.BytesIO(png)))[0, 0, 0])


def picture(red: int) -> np.ndarray:
    return np.full((5, 7, 3), red, np.uint8)


def question(number: int) -> Question:
    return Question(images=(picture(number),), text=f"question {number}", answer=Verdict)


def expected(number: int) -> Verdict:
    return Verdict(label=f"question {number}", score=number)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("SOME_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield running
        running.shutdown()


def connect(url: str, cache: Path, **other: Any) -> EndpointModel:
    settings: dict[str, Any] = {
        "model": "tiny", "key_variable": "SOME_KEY", "concurrency": 4,
        "requests_per_minute": 1e9, "timeout_s": 60.0, "tries": 5, "max_tokens": 50,
        "sleep": lambda _: None,
    }  # fmt: skip
    return EndpointModel(base_url=url, cache=cache, **settings | other)


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
    child = subprocess.Popen([sys.executable, __file__, server.url, str(tmp_path)])
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


@pytest.mark.parametrize("status", ["401", "402", "403", "404"])
def test_a_refusal_of_everything_stops_and_keeps_what_was_answered(
    status: str, server: Server, tmp_path: Path
) -> None:
    server.script["question 1"] = [status]
    model = connect(server.url, tmp_path, concurrency=1)
    with pytest.raises(UserError, match=status) as caught:
        model.ask([question(n) for n in range(4)])
    assert caught.value.todo
    assert len([body for body in server.bodies if "question 1" in str(body)]) == 1
    again = connect("http://127.0.0.1:9/v1", tmp_path, tries=1)
    assert again.ask([question(0)]) == [expected(0)]


def test_the_key_is_nowhere_to_be_read(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script = {"question 1": ["500"] * 9, "question 2": ["401"]}
    model = connect(server.url, tmp_path)
    seen = [str(model.ask([question(0), question(1)]))]
    assert "your key ***" in seen[0]  # the server does tell it
    with pytest.raises(UserError, match=r"SOME_KEY") as caught:
        model.ask([question(2)])
    seen += [caplog.text, "".join(traceback.format_exception(caught.value)), repr(vars(caught))]
    assert all(KEY not in text for text in seen)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files and all(KEY.encode() not in path.read_bytes() for path in files)


def test_a_missing_key_is_refused_unless_none_is_needed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOME_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UserError, match=r"\$SOME_KEY"):
        connect(server.url, tmp_path)
    connect(server.url, tmp_path, key_variable="").ask([question(1)])
    assert server.keys == {"Bearer none"}


def test_settings_are_the_constructors_keywords(server: Server, tmp_path: Path) -> None:
    settings = {
        "base_url": server.url, "model": "tiny", "revision": "", "key_variable": "SOME_KEY",
        "concurrency": 1, "requests_per_minute": 6e5, "timeout_s": 60.0, "tries": 1,
        "max_tokens": 9, "temperature": None, "price_in": 0.0, "price_out": 0.0,
        "max_cost": None, "cache": str(tmp_path),
    }  # fmt: skip
    model = EndpointModel(**Endpoint(**settings).model_dump())
    assert model.ask([question(1)]) == [expected(1)]
    assert "temperature" not in server.bodies[0]
    for secret in ("http://me:pass@host/v1", "http://host/v1?key=1"):
        with pytest.raises(ValidationError):
            Endpoint(**settings | {"base_url": secret})


@given(st.lists(st.floats(0, 5), min_size=1, max_size=20), st.floats(1, 600))
def test_requests_are_evenly_spaced(gaps: list[float], per_minute: float) -> None:
    now, slept = [0.0], [0.0]
    pace = Pace(per_minute, lambda: now[0], lambda seconds: slept.__setitem__(0, seconds))
    before = -1e9
    for gap in gaps:
        now[0] += gap
        slept[0] = 0.0
        pace.wait()
        start = now[0] + slept[0]
        assert start == pytest.approx(max(now[0], before + 60 / per_minute))
        before = start


def test_every_request_waits_for_its_turn(server: Server, tmp_path: Path) -> None:
    waits: list[float] = []
    server.script["question 1"] = ["500"]
    model = connect(
        server.url, tmp_path, requests_per_minute=6.0, clock=lambda: 0.0, sleep=waits.append,
        draw=lambda: 1.0, concurrency=1,
    )  # fmt: skip
    model.ask([question(1), question(2)])
    assert waits == [1.0, 10.0, 20.0]  # the failure's, then the second and the third turn


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("2.5", 2.5),
        ("-1", 0),
        ("nan", 0),
        ("soon", 0),
        (formatdate(1030, usegmt=True), 30),
        (formatdate(900, usegmt=True), 0),
    ],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float) -> None:
    assert asked_wait_s(header, now=1000.0) == seconds


@pytest.mark.parametrize(
    "text",
    [
        '{"label": "a", "score": 1}',
        '```json\n{"label": "a", "score": 1}\n```',
        'Of {x}, perhaps {"label": "draft", "score": 9}, no: {"label": "a", "score": 1} as {so}.',
        '{ "score": 1, "label": "a", "more": {"nested": "} \\" {"} }',
    ],
)
def test_the_last_object_is_found_wherever_it_stands(text: str) -> None:
    verdict = parse(text, Verdict)
    assert isinstance(verdict, Verdict) and (verdict.label, verdict.score) == ("a", 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no JSON object"),
        ("The score is {score}.", "no JSON object"),
        ('{"label": "a", "score": 1', "EOF"),
        ('{"label": "a", "score": 1} or rather {"label": "a", "sco', "EOF"),
        ('{"draft": {"label": "a", "score": 1}, "lab', "EOF"),
        ('{"label": "a", "score": 999}', "score: "),
        ('{"score": []}', "label: Field required; score: "),
    ],
)
def test_what_is_no_answer_is_told_and_not_guessed(text: str, problem: str) -> None:
    found = parse(text, Verdict)
    assert isinstance(found, str) and problem in found


@given(st.text('{}[]"\\:,a1 \n', max_size=60))
def test_any_text_is_parsed_without_an_accident(text: str) -> None:
    assert isinstance(parse(text, Verdict), str)
    found = find_object(text)
    assert found is None or (found in text and found.startswith("{"))


@pytest.mark.parametrize(
    ("image", "text"),
    [(np.zeros((4, 4, 3)), "a"), (np.zeros((4, 4), np.uint8), "a"), (picture(0), " ")],
)
def test_a_question_that_cannot_be_asked_is_refused(image: Any, text: str) -> None:
    with pytest.raises(UserError):
        Question(images=(image,), text=text, answer=Verdict)


if __name__ == "__main__":  # the process that is killed
    connect(sys.argv[1], Path(sys.argv[2]), concurrency=1).ask([question(n) for n in range(8)])
