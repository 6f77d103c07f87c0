"""The engine room: requests wait in a line of bounded length and are painted in micro-batches.

A thread takes the request that waits longest and all others that go with it (`Asked.alike`), up to
a batch. Here one thread paints, so that an adapter sits in the base alone; where others paint
(`on_ray`), there is a thread for each.
"""

import contextlib
import math
import threading
import time
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import structlog
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.progress import Watcher
from insitu.registry.store import Entry
from insitu.serving.engine import Asked
from insitu.serving.refusals import Busy, Closing

Image = NDArray[np.uint8]
State = Literal["queued", "running", "done", "failed", "cancelled"]
MIB = 2**20
log = structlog.get_logger("insitu.room")


class Cancelled(Exception):
    """Nobody waits for what is being painted."""


class Painter(Protocol):
    """Whatever paints requests that are alike: `Engine.paint`, for one."""

    def __call__(self, asked: Sequence[Asked], watcher: Watcher) -> list[Image]: ...


@dataclass(eq=False)
class Job:
    """A request on its way.

    Attributes:
        entry: of the adapter that paints it.
        asked: until it is over.
        id: a name that nobody guesses.
        owner: who asked, by the name of the key.
        progress: share of the sampling that is done, 0..1.
        batch: how many were painted together.
        waited_s, painted_s: seconds in the line, and being painted.
    """

    entry: Entry
    asked: Asked | None
    owner: str = ""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: State = "queued"
    progress: float = 0.0
    image: Image | None = None
    error: Exception | None = None
    batch: int = 0
    waited_s: float = 0.0
    painted_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _listeners: list[Callable[[], None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: threading.Event = field(default_factory=threading.Event)

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call `listener`, in whichever thread, when anything changes; how to stop that."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock, contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return stop

    def change(self, **more: Any) -> bool:
        """Set attributes, unless it is over; whether they were set."""
        with self._lock:
            if self.over:
                return False
            # The state last: who sees that it is over sees its picture, too.
            for name in sorted(more, key=lambda name: name == "state"):
                setattr(self, name, more[name])
            listeners = list(self._listeners)
            if self.over:
                self.asked = None  # its pictures are no longer needed
                self._ended.set()
        for listener in listeners:
            listener()
        return True

    def wait(self, timeout_s: float | None = None) -> Image:
        """The picture, when it is there.

        Raises:
            TimeoutError: it takes longer.
            Cancelled, UserError: it was cancelled, or cannot be painted.
        """
        if not self._ended.wait(timeout_s):
            raise TimeoutError(self.id)
        return self.result()

    def result(self) -> Image:
        """The picture of a job that is over. Raises as `wait`."""
        if self.error is not None:
            raise self.error
        if self.image is None:
            raise Cancelled(self.id)
        return self.image


class Room:
    """The line, and the thread that works it off."""

    def __init__(
        self,
        paint: Painter,
        *,
        batch: int,
        queue: int,
        queue_mib: int,
        jobs: int,
        padded: bool = False,
        painters: int = 1,
    ) -> None:
        """
        Args:
            batch: requests painted at once, at most.
            queue: requests that wait, at most; `queue_mib` of their pictures.
            jobs: finished ones that are kept.
            padded: always paint as many as `batch`.
            painters: batches at once; more than 1 only where `paint` can be called so.
        """
        self._paint, self._batch, self._padded = paint, batch, padded
        self._most, self._most_bytes, self._kept = queue, queue_mib * MIB, jobs
        self._line: deque[tuple[Job, Asked]] = deque()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._closing = False
        self._running: dict[int, list[Job]] = {}
        self._batch_s = 1.0
        self.observe: Callable[[list[Job]], None] = lambda jobs: None
        """Told of each batch that was painted."""
        self._threads = [
            threading.Thread(target=self._work, args=(n,), name=f"room-{n}", daemon=True)
            for n in range(painters)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        return len(self._line)

    @property
    def running(self) -> int:
        return sum(map(len, list(self._running.values())))

    @property
    def waiting_bytes(self) -> int:
        """Of the pictures of what waits."""
        return sum(asked.nbytes for _, asked in list(self._line))

    def require_room(self) -> None:
        """Refuse where the line is full, before anything is read of a request.

        Raises:
            Busy, Closing: it is full, or the server is ending.
        """
        with self._changed:
            self._require(0)

    def submit(self, asked: Asked, owner: str = "", *, keep: bool = False) -> Job:
        """Put a request into the line. Raises as `require_room`.

        Args:
            keep: it can be found by its id, also when it is over.
        """
        job = Job(entry=asked.entry, asked=asked, owner=owner)
        with self._changed:
            self._require(asked.nbytes)
            self._line.append((job, asked))
            if keep:
                self._jobs[job.id] = job
                self._forget()
            self._changed.notify()
        return job

    def _require(self, more: int) -> None:
        if self._closing:
            raise Closing(
                "A picture was asked for.",
                "The server is ending, and takes no more.",
                "Ask again when it is back.",
                {"Retry-After": "10"},
            )
        full = len(self._line) >= self._most
        if full or (self._line and self.waiting_bytes + more > self._most_bytes):
            wait = max(1, math.ceil((len(self._line) / self._batch + 1) * self._batch_s))
            raise Busy(
                "A picture was asked for.",
                f"{len(self._line)} requests wait already, as many as may wait.",
                f"Ask again in {wait} s.",
                {"Retry-After": str(wait)},
            )

    def find(self, id: str, owner: str = "") -> Job | None:
        """A job of this owner."""
        job = self._jobs.get(id)
        return job if job is not None and job.owner == owner else None

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more."""
        job.change(state="cancelled")
        with self._changed:
            self._line = deque(pair for pair in self._line if pair[0] is not job)

    def close(self, drain_s: float) -> None:
        """Take no more, finish what is there within some seconds, and cancel the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        deadline = time.monotonic() + drain_s
        while (self._line or self.running) and time.monotonic() < deadline:
            time.sleep(0.02)
        running = [job for jobs in list(self._running.values()) for job in jobs]
        for job in [*(job for job, _ in self._line), *running]:
            job.change(state="cancelled")
        with self._changed:
            self._line.clear()
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)

    def _forget(self) -> None:
        """The oldest of the finished, where there are more than are kept, or too large ones."""
        over = [job for job in self._jobs.values() if job.over]
        size = sum(job.image.nbytes for job in over if job.image is not None)
        while over and (len(over) > self._kept or size > self._most_bytes):
            oldest = over.pop(0)
            size -= 0 if oldest.image is None else oldest.image.nbytes
            del self._jobs[oldest.id]

    def _work(self, number: int) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._line or self._closing)
                if not self._line:
                    return
                chosen = self._next()
                self._running[number] = [job for job, _ in chosen]
            try:
                self._run(chosen)
            finally:
                del self._running[number]

    def _next(self) -> list[tuple[Job, Asked]]:
        """The one that waits longest, and those that go with it."""
        key = self._line[0][1].alike
        chosen = [pair for pair in self._line if pair[1].alike == key][: self._batch]
        self._line = deque(pair for pair in self._line if pair not in chosen)
        return chosen

    def _run(self, chosen: list[tuple[Job, Asked]]) -> None:
        jobs, began = [job for job, _ in chosen], time.monotonic()
        for job in jobs:
            job.change(state="running", batch=len(jobs), waited_s=began - job.began)
        asked = [one for _, one in chosen]
        asked += [asked[-1]] * (self._batch - len(asked) if self._padded else 0)
        try:
            pictures = self._paint(asked, self._watcher(jobs))[: len(jobs)]
        except Cancelled:
            return
        except Exception as error:
            self._failed(chosen, error)
            return
        seconds = time.monotonic() - began
        self._batch_s = 0.7 * self._batch_s + 0.3 * seconds
        for job, picture in zip(jobs, pictures, strict=True):
            job.change(state="done", image=picture, progress=1.0, painted_s=seconds)
        self.observe(jobs)

    def _failed(self, chosen: list[tuple[Job, Asked]], error: Exception) -> None:
        """One that cannot be painted takes no other along: each is then tried by itself."""
        if len(chosen) > 1:
            for pair in chosen:
                if not pair[0].over:
                    self._run([pair])
            return
        ((job, _),) = chosen
        if not isinstance(error, UserError):
            log.error("painting failed", job=job.id, exc_info=error)
        job.change(state="failed", error=error)

    def _watcher(self, jobs: list[Job]) -> Watcher:
        def watcher(share: float) -> None:
            if all(job.over for job in jobs):
                raise Cancelled
            for job in jobs:
                job.change(progress=max(job.progress, share))

        return watcher
