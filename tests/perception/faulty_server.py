"""A real HTTP server that misbehaves by script, and a model that asks it."""

import base64
import io
import json
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, Field

from insitu.perception.language import Question
from insitu.perception.language.endpoint import EndpointModel

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


if __name__ == "__main__":  # the process that is killed
    connect(sys.argv[1], Path(sys.argv[2]), concurrency=1).ask([question(n) for n in range(8)])
