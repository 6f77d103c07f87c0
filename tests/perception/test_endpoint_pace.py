"""Proves that requests are spaced as asked for, and a server's own wait is understood. Needs a
loopback port for one test.
"""

from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insitu.perception.language.connection import Pace, asked_wait_s
from tests.perception.faulty_server import Server, connect, question, server

__all__ = ["server"]


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
