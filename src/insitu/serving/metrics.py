"""What a server counts, for Prometheus."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from insitu.serving.engine import Engine
    from insitu.serving.room import Job, Room

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counters of one application; gauges are read when they are asked for."""

    def __init__(self, engine: "Engine", room: "Room") -> None:
        own = self.registry = CollectorRegistry()
        self._requests = Counter(
            "insitu_requests", "Requests, by route and status.", ("route", "status"), registry=own
        )
        self._seconds = Histogram(
            "insitu_request_seconds", "From the first byte to the last, by route.", ("route",),
            registry=own, buckets=SECONDS,
        )  # fmt: skip
        self._pictures = Counter(
            "insitu_pictures", "Pictures painted, by method.", ("method",), registry=own
        )
        self._painting = Histogram(
            "insitu_painting_seconds", "Of a batch, by method.", ("method",),
            registry=own, buckets=SECONDS,
        )  # fmt: skip
        self._waiting = Histogram(
            "insitu_waiting_seconds", "In the line.", registry=own, buckets=SECONDS
        )
        self._batch = Histogram(
            "insitu_batch", "Requests painted at once.", registry=own, buckets=(1, 2, 4, 8, 16, 32)
        )
        shelf, catalog = engine.shelf, engine.catalog
        for name, what, read in (
            ("insitu_queue", "Requests that wait.", lambda: room.waiting),
            ("insitu_queue_bytes", "Of their pictures.", lambda: room.waiting_bytes),
            ("insitu_running", "Requests being painted.", lambda: room.running),
            ("insitu_adapters", "Adapters in memory.", lambda: shelf.count),
            ("insitu_adapters_bytes", "Of their weights.", lambda: shelf.used),
            ("insitu_adapter_hits", "Adapters found in memory.", lambda: shelf.hits),
            ("insitu_adapter_misses", "Adapters read from disk.", lambda: shelf.misses),
            ("insitu_adapter_evictions", "Adapters let go.", lambda: shelf.evictions),
            ("insitu_problems", "Parts that do not work.", lambda: len(catalog.problems)),
        ):
            Gauge(name, what, registry=own).set_function(read)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request that was answered."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, jobs: "list[Job]") -> None:
        """A batch that was painted."""
        method = jobs[0].entry.name.partition(".")[0]
        self._pictures.labels(method).inc(len(jobs))
        self._painting.labels(method).observe(jobs[0].painted_s)
        self._batch.observe(len(jobs))
        for job in jobs:
            self._waiting.observe(job.waited_s)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
