"""Proves what EndpointModel refuses, and that its key is nowhere to be read. Needs a loopback
port.
"""

import logging
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from insitu.errors import UserError
from insitu.params.language import Endpoint
from insitu.perception.language import Question
from insitu.perception.language.endpoint import EndpointModel
from tests.perception.faulty_server import (
    KEY,
    Server,
    Verdict,
    connect,
    expected,
    picture,
    question,
    server,
)

__all__ = ["server"]


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


@pytest.mark.parametrize(
    ("image", "text"),
    [(np.zeros((4, 4, 3)), "a"), (np.zeros((4, 4), np.uint8), "a"), (picture(0), " ")],
)
def test_a_question_that_cannot_be_asked_is_refused(image: Any, text: str) -> None:
    with pytest.raises(UserError):
        Question(images=(image,), text=text, answer=Verdict)
