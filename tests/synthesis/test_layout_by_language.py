"""Proves that wishes become entities with boxes through a language model: of a new picture, of a
change to one, and in a dialogue; that a layout that does not fit is asked for again; and that one
that never comes is refused in three parts.

Needs a loopback port, where a real HTTP server answers by script; no network, no model.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.perception.language.endpoint import EndpointModel
from insitu.requests import Placement
from insitu.synthesis.layout_by_language import Dialogue, edit, lay_out

MUG = {"prompt": "a red mug ", "x0": 100, "y0": 500, "x1": 400, "y1": 1000}
CAT = {"prompt": "a blue cat", "x0": 500, "y0": 250, "x1": 1000, "y1": 1000}
PLACED = Placement(box_xyxy01=(0.1, 0.5, 0.4, 1.0), prompt="a red mug")


class Server(ThreadingHTTPServer):
    """Speaks chat completions: writes what `answers` holds, one after the other."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"

    def will_say(self, *things: dict[str, Any], prompt: str = "a red mug on a table") -> None:
        self.answers.append(json.dumps({"things": things, "prompt": prompt}))

    def question(self, number: int) -> tuple[int, str]:
        """How many pictures a request held, and its words."""
        *pictures, words = self.bodies[number]["messages"][0]["content"]
        return len(pictures), words["text"]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        message = {"role": "assistant", "content": self.server.answers.pop(0)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        content = json.dumps(
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield running
        running.shutdown()


@pytest.fixture
def model(server: Server, tmp_path: Path) -> EndpointModel:
    return EndpointModel(
        base_url=server.url, model="grounding", key_variable="", concurrency=1,
        requests_per_minute=1e9, timeout_s=60.0, tries=2, max_tokens=500, cache=tmp_path,
        sleep=lambda _: None,
    )  # fmt: skip


def test_a_wish_becomes_entities_of_a_new_picture(server: Server, model: EndpointModel) -> None:
    server.will_say(MUG, CAT)
    scene = lay_out(model, "breakfast with my cat", most=4)
    assert scene.placements[0] == PLACED
    assert [p.prompt for p in scene.placements] == ["a red mug", "a blue cat"]
    blank = np.zeros((32, 48, 3), np.uint8)
    asked = scene.request(blank, seed=3)
    assert (asked.background, asked.prompt, asked.seed) == ("free", "a red mug on a table", 3)
    assert asked.placements == scene.placements
    pictures, words = server.question(0)
    assert pictures == 0 and "breakfast with my cat" in words
    schema = json.loads(words[words.index("\n{") :])
    things = schema["properties"]["things"]
    assert (things["minItems"], things["maxItems"]) == (1, 4)


def test_an_edit_is_painted_into_the_picture_that_was_shown(
    server: Server, model: EndpointModel
) -> None:
    server.will_say(CAT, prompt="a cat beside a mug")
    photo = np.full((40, 60, 3), 9, np.uint8)
    scene = edit(model, photo, "add a blue cat on the right", most=4)
    asked = scene.request(photo, seed=0, negative_prompt="blur")
    assert (asked.background, asked.negative_prompt) == ("keep", "blur")
    assert asked.placements[0].box_xyxy01 == (0.5, 0.25, 1.0, 1.0)
    pictures, words = server.question(0)
    assert pictures == 1 and "add a blue cat on the right" in words


def test_a_dialogue_knows_what_was_said_and_what_came_of_it(
    server: Server, model: EndpointModel
) -> None:
    server.will_say(MUG)
    server.will_say(MUG, CAT, prompt="a mug and a cat")
    dialogue = Dialogue(model, most=2)
    dialogue.say("a mug")
    scene = dialogue.say("and a cat", np.zeros((8, 8, 3), np.uint8))
    assert scene.edits and len(scene.placements) == 2
    _, words = server.question(1)
    assert 'Earlier wish 1: "a mug"' in words
    assert '{"prompt":"a red mug","x0":100,"y0":500,"x1":400,"y1":1000}' in words
    assert [wish for wish, _ in dialogue.said] == ["a mug", "and a cat"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ([MUG | {"x1": 100}], "x0 < x1"),
        ([MUG | {"y1": 1001}], "less than or equal to 1000"),
        ([MUG | {"prompt": " "}], "match pattern"),
        ([MUG] * 3, "at most 2 items"),
        ([], "at least 1 item"),
    ],
)
def test_a_layout_that_does_not_fit_is_asked_for_again_and_never_passes(
    server: Server, model: EndpointModel, wrong: list[dict[str, Any]], said: str
) -> None:
    server.will_say(*wrong)
    server.will_say(MUG)
    assert lay_out(model, "a mug", most=2).placements == (PLACED,)
    assert said in server.bodies[1]["messages"][2]["content"]

    server.will_say(*wrong)
    server.will_say(*wrong)
    dialogue = Dialogue(model, most=2)
    with pytest.raises(UserError) as caught:
        dialogue.say("two mugs")
    assert "'two mugs'" in caught.value.given
    assert said in caught.value.why
    assert "other words" in caught.value.todo
    assert not dialogue.said


def test_an_empty_wish_is_not_asked(server: Server, model: EndpointModel) -> None:
    with pytest.raises(UserError, match="An empty wish"):
        lay_out(model, " ", most=2)
    assert not server.bodies
