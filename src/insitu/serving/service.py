"""What the routes of a server share, and how it begins and ends."""

import asyncio
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from fastapi import Request
from starlette.concurrency import run_in_threadpool

from insitu.backbones.bases import load as load_base
from insitu.backbones.loading import choose_device
from insitu.backbones.precision import Precision
from insitu.errors import UserError
from insitu.methods import Method, find, pinned
from insitu.params import Params
from insitu.params.serving import Serving
from insitu.perception.language import LanguageModel
from insitu.registry.signature import Keys as Signatures
from insitu.registry.store import CHAMPION, Store
from insitu.serving.asking import PlaceRequest, to_wish
from insitu.serving.catalog import Catalog, told
from insitu.serving.engine import Asked, Engine
from insitu.serving.faces import face_finder
from insitu.serving.keys import Keys
from insitu.serving.metrics import Metrics
from insitu.serving.refusals import Closing
from insitu.serving.room import Job, Painter, Room
from insitu.serving.shelf import Shelf

POLL_S = 0.2
READERS = 4
"""Requests whose pictures are decoded at once, which takes memory."""
log = structlog.get_logger("insitu.service")


class Gone(Exception):
    """The client left before its answer."""


@dataclass(kw_only=True, eq=False)
class Service:
    """A server's parts.

    Attributes:
        methods: those that are served, with today's settings.
        language: lays scenes out; None = that is not offered.
        ready: it has begun, and does not end yet.
    """

    params: Params
    engine: Engine
    room: Room
    metrics: Metrics
    methods: Mapping[str, Method]
    keys: Keys | None = None
    language: LanguageModel | None = None
    ready: bool = False

    @classmethod
    def of(
        cls,
        params: Params,
        engine: Engine,
        *,
        paint: Painter | None = None,
        painters: int = 1,
        **more: Any,
    ) -> "Service":
        """With a room and metrics of the settings.

        Args:
            paint: who paints; None = the engine. `painters` of them.
        """
        own = params.serving
        room = Room(
            paint or engine.paint, batch=own.batch, queue=own.queue, queue_mib=own.queue_mib,
            jobs=own.jobs, padded=own.padded, painters=painters,
        )  # fmt: skip
        metrics = Metrics(engine, room)
        room.observe = metrics.batch
        return cls(
            params=params, engine=engine, room=room, metrics=metrics, methods=methods_of(params),
            **more,
        )  # fmt: skip

    @property
    def limits(self) -> Serving:
        return self.params.serving

    def begin(self) -> None:
        """Look at what is registered, have the methods' champions at hand, and work."""
        self._readers = asyncio.Semaphore(READERS)
        catalog = self.engine.catalog
        catalog.follow()
        for name, aliases in catalog.aliases().items():
            if "." not in name and CHAMPION in aliases:
                try:
                    self.engine.shelf.get(catalog.resolve(name, CHAMPION))
                except UserError as error:
                    log.warning("not at hand", adapter=name, why=error.why)
        self.room.start()
        catalog.start()
        self.ready = True
        log.info("ready", bases=sorted(self.engine.bases), pid=os.getpid())

    def end(self) -> None:
        """Finish what is under way."""
        self.ready = False
        self.engine.catalog.stop()
        self.room.close(self.limits.drain_s)
        self.engine.unload()
        log.info("ended")

    def state(self) -> Mapping[str, Any]:
        """What works and what does not."""
        return {
            "ready": self.ready,
            "problems": told(self.engine.catalog.problems),
            "bases": sorted(self.engine.bases),
            "adapters": self.engine.shelf.count,
            "waiting": self.room.waiting,
            "running": self.room.running,
        }

    async def ask(self, body: PlaceRequest, files: Mapping[str, bytes]) -> Asked:
        """What a request comes to. Raises UserError."""
        if not self.ready:
            raise _closing()
        async with self._readers:
            return await run_in_threadpool(self._ask, body, files)

    def _ask(self, body: PlaceRequest, files: Mapping[str, bytes]) -> Asked:
        return self.engine.ask(to_wish(body, files, self.limits))

    async def painted(self, asked: Asked, request: Request) -> Job:
        """The job of a request when it is done; a client that leaves cancels it.

        Raises:
            Gone: it left.
            UserError: it cannot be painted, as many wait as may wait, or the server ends.
        """
        job = self.room.submit(asked, request.state.owner)
        over = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            if job.over:
                loop.call_soon_threadsafe(over.set)

        stop = job.listen(tell)
        try:
            while not job.over:
                try:
                    await asyncio.wait_for(over.wait(), POLL_S)
                except TimeoutError:
                    if await request.is_disconnected():
                        raise Gone from None
        finally:
            stop()
            if not job.over:
                self.room.cancel(job)
        if job.state == "cancelled":
            raise _closing()
        job.result()
        return job


def _closing() -> Closing:
    return Closing(
        "A picture was asked for.",
        "The server is beginning or ending.",
        "Ask again in a moment.",
        {"Retry-After": "5"},
    )


def make(params: Params, **more: Any) -> Service:
    """A server's parts from its settings: bases are loaded, MLflow is reached when it answers.

    Raises:
        UserError: a base cannot be loaded, or the file of keys not be read.
    """
    own = params.serving
    keys = None if own.keys is None else Keys(Path(own.keys))
    engine = make_engine(params, loader(params))
    return Service.of(params, engine, keys=keys, language=language_of(params), **more)


def loader(params: Params, *bases: str) -> Callable[[], Mapping[str, Any]]:
    """Loads bases, by default those of the methods that are served.

    Raises:
        UserError: they cannot be held as the settings say.
    """
    device, held = choose_device(params.device), Precision.of(params.painting_base())
    wanted = sorted(bases or bases_of(params))
    return lambda: {
        base: load_base(base, getattr(params.models, base), device=device, precision=held)
        for base in wanted
    }


def methods_of(params: Params) -> dict[str, Method]:
    """The methods that are served, with today's settings, by name."""
    return {
        name: find(name, pinned(name, params.learned(name)[0], params.models))
        for name in params.serving.methods
    }


def bases_of(params: Params) -> set[str]:
    """The bases of the methods that are served."""
    return {method.base for method in methods_of(params).values()}


def make_engine(params: Params, load: Callable[[], Mapping[str, Any]]) -> Engine:
    """The engine, with the registry and the folder that the settings name.

    Args:
        load: makes the bases.
    """
    catalog, shelf = make_catalog(params)
    return Engine(
        load=load, catalog=catalog, shelf=shelf,
        vocabulary=params.subjects.attributes.model_dump(),
        faces=functools.lru_cache(maxsize=1)(lambda: face_finder(params)),
    )  # fmt: skip


def make_catalog(params: Params) -> tuple[Catalog, Shelf]:
    """Names and packages, of the registry and in the folder that the settings name."""
    own, registry = params.serving, params.registry
    keys = Signatures.of(registry.private_key, registry.public_key)
    folder = Path(own.folder)
    catalog = Catalog(
        lambda: Store.connect(registry.tracking_uri, keys), folder,
        methods=frozenset(own.methods), follow_s=own.follow_s,
        prepare=lambda entry: shelf.get(entry),
    )  # fmt: skip
    shelf = Shelf(
        lambda: catalog.store, folder / "packages", mib=own.adapters_mib, public_key=keys.public
    )
    return catalog, shelf


def language_of(params: Params) -> LanguageModel | None:
    if params.serving.layout is None:
        return None
    from insitu.perception.language.endpoint import EndpointModel

    return EndpointModel(**params.serving.layout.model_dump())
