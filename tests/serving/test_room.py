"""Proves that the line is bounded, that requests which go together are painted together, that one
which fails takes no other along, and that what nobody waits for is not painted.

The painter is one that the test holds; no model is loaded.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from insitu.errors import UserError
from insitu.methods import Placement, Request
from insitu.progress import Watcher
from insitu.registry.store import Entry
from insitu.serving.engine import Asked
from insitu.serving.refusals import Busy, Closing
from insitu.serving.room import Cancelled, Job, Room

BATCH, QUEUE = 4, 6


def asked(adapter: str = "a", seed: int = 0, side: int = 8) -> Asked:
    entry = Entry(
        name=adapter, version="1", digest=adapter, aliases=(), figures={}, run_id="", data={}
    )
    request = Request(
        image=np.zeros((side, side, 3), np.uint8), prompt="a", seed=seed,
        placements=(Placement(box_xyxy01=(0, 0, 0.5, 0.5)),),
    )  # fmt: skip
    return Asked(entry=entry, request=request)


class Painter:
    """Paints when it is let; a picture is filled with its seed. A seed of 13 cannot be painted."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, list[int]]] = []
        self.free = threading.Event()
        self.began = threading.Event()

    def __call__(self, asked: Sequence[Asked], watcher: Watcher) -> list[Any]:
        seeds = [one.request.seed for one in asked]
        self.batches.append((asked[0].entry.name, seeds))
        self.began.set()
        watcher(0.0)
        while not self.free.wait(0.01):
            watcher(0.5)
        if 13 in seeds:
            raise UserError("13", "It brings no luck.", "Take another.")
        if 14 in seeds:
            raise RuntimeError("14")
        return [np.full(one.request.image.shape, one.request.seed, np.uint8) for one in asked]


@pytest.fixture
def painter() -> Iterator[Painter]:
    made = Painter()
    yield made
    made.free.set()


@pytest.fixture
def room(painter: Painter) -> Iterator[Room]:
    made = Room(painter, batch=BATCH, queue=QUEUE, queue_mib=1, jobs=3)
    made.start()
    yield made
    painter.free.set()
    made.close(5)


def held_up(room: Room, painter: Painter) -> Job:
    """A first job that is being painted, so that others wait."""
    job = room.submit(asked("first"))
    assert painter.began.wait(30)
    return job


def test_requests_that_go_together_are_painted_together_in_order(
    room: Room, painter: Painter
) -> None:
    first = held_up(room, painter)
    jobs = [room.submit(asked(name, seed)) for seed, name in enumerate("abaabb")]
    painter.free.set()
    pictures = [job.wait(30) for job in jobs]
    assert [int(picture[0, 0, 0]) for picture in pictures] == list(range(6))
    assert painter.batches == [("first", [0]), ("a", [0, 2, 3]), ("b", [1, 4, 5])]
    assert first.wait(30) is not None and jobs[0].batch == 3 and jobs[0].asked is None


def test_another_size_or_number_of_places_is_another_batch(room: Room, painter: Painter) -> None:
    held_up(room, painter)
    small, large = room.submit(asked(seed=1)), room.submit(asked(seed=2, side=16))
    painter.free.set()
    small.wait(30), large.wait(30)
    assert [seeds for _, seeds in painter.batches[1:]] == [[1], [2]]


def test_a_full_line_refuses_and_says_when_to_come_again(room: Room, painter: Painter) -> None:
    held_up(room, painter)
    jobs = [room.submit(asked(seed=n)) for n in range(QUEUE)]
    with pytest.raises(Busy) as refused:
        room.submit(asked())
    assert int(refused.value.headers["Retry-After"]) >= 1 and "6 requests wait" in refused.value.why
    with pytest.raises(Busy):
        room.require_room()
    painter.free.set()
    for job in jobs:
        job.wait(30)
    room.submit(asked()).wait(30)


def test_pictures_that_wait_are_bounded_by_their_bytes(room: Room, painter: Painter) -> None:
    held_up(room, painter)
    room.submit(asked(side=500))  # 0.7 of the MiB
    with pytest.raises(Busy):
        room.submit(asked(side=500))
    room.submit(asked())


def test_one_that_cannot_be_painted_takes_no_other_along(room: Room, painter: Painter) -> None:
    held_up(room, painter)
    jobs = [room.submit(asked(seed=seed)) for seed in (1, 13, 2)]
    painter.free.set()
    assert int(jobs[0].wait(30)[0, 0, 0]) == 1 and int(jobs[2].wait(30)[0, 0, 0]) == 2
    with pytest.raises(UserError, match="no luck"):
        jobs[1].wait(30)
    broken = room.submit(asked(seed=14))
    with pytest.raises(RuntimeError):
        broken.wait(30)
    assert room.submit(asked(seed=3)).wait(30) is not None  # and it goes on


def test_what_nobody_waits_for_is_not_painted(room: Room, painter: Painter) -> None:
    running, waiting = held_up(room, painter), room.submit(asked(seed=1))
    room.cancel(waiting)
    room.cancel(running)  # its painter is told at the next step
    last = room.submit(asked(seed=2))
    painter.free.set()
    assert int(last.wait(30)[0, 0, 0]) == 2
    assert [seeds for _, seeds in painter.batches] == [[0], [2]]
    for job in (running, waiting):
        with pytest.raises(Cancelled):
            job.wait(30)
        assert job.state == "cancelled"


def test_a_batch_goes_on_while_anybody_waits_for_it(room: Room, painter: Painter) -> None:
    held_up(room, painter)
    gone, kept = room.submit(asked(seed=1)), room.submit(asked(seed=2))
    painter.free.set()
    room.cancel(gone)
    assert int(kept.wait(30)[0, 0, 0]) == 2 and gone.state == "cancelled"


def test_progress_is_told_and_finished_jobs_are_kept_in_number(
    room: Room, painter: Painter
) -> None:
    told: list[float] = []
    job = room.submit(asked(), "me", keep=True)
    stop = job.listen(lambda: told.append(job.progress))
    assert painter.began.wait(30)
    painter.free.set()
    job.wait(30)
    stop()
    assert told[-1] == 1.0 and told == sorted(told)
    assert room.find(job.id, "me") is job
    assert room.find(job.id, "somebody else") is None and room.find("0" * 32) is None
    others = []
    for _ in range(4):
        others.append(room.submit(asked(), "me", keep=True))
        others[-1].wait(30)
    room.submit(asked(), "me", keep=True).wait(30)
    assert room.find(job.id, "me") is None and room.find(others[-1].id, "me") is others[-1]


def test_closing_finishes_what_is_there_and_takes_no_more(painter: Painter) -> None:
    room = Room(painter, batch=1, queue=QUEUE, queue_mib=1, jobs=3)
    room.start()
    job = held_up(room, painter)
    waiting = room.submit(asked(seed=1))
    threading.Timer(0.2, painter.free.set).start()
    room.close(10)
    assert job.state == waiting.state == "done"
    with pytest.raises(Closing):
        room.submit(asked())


def test_closing_does_not_wait_for_ever(painter: Painter) -> None:
    room = Room(painter, batch=1, queue=QUEUE, queue_mib=1, jobs=3)
    room.start()
    job, waiting = held_up(room, painter), room.submit(asked(seed=1))
    began = time.monotonic()
    room.close(0.2)
    assert job.state == waiting.state == "cancelled" and time.monotonic() - began < 60


def test_a_padded_batch_has_always_the_same_shape(painter: Painter) -> None:
    room = Room(painter, batch=BATCH, queue=QUEUE, queue_mib=1, jobs=3, padded=True)
    room.start()
    painter.free.set()
    job = room.submit(asked(seed=5))
    assert int(job.wait(30)[0, 0, 0]) == 5 and job.batch == 1
    assert painter.batches == [("a", [5] * BATCH)]
    room.close(5)
