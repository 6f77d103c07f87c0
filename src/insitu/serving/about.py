"""Routes that tell what there is: methods, adapters, whether the server works."""

from typing import Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from insitu.methods import Method
from insitu.registry.store import CHAMPION
from insitu.requests import Accepts
from insitu.serving.asking import ADAPTER, VERSION
from insitu.serving.service import Service

NAMES = {"landmarks_xy01": "landmarks", "reference_landmarks_xy01": "reference_landmarks"}
FOUND = frozenset({"reference_landmarks_xy01"})
"""Of a placement: what is found where it is not given."""


class Takes(BaseModel):
    """What a request may hold. `needs` and `takes` are fields of a placement beside its place."""

    placements: tuple[int, int] = Field(description="The fewest and the most.")
    needs: list[str]
    takes: list[str]
    negative_prompt: bool
    free: bool = Field(description="It can paint whole pictures.")
    keeps: bool = Field(description="It can leave the photo as it is outside of the places.")
    places: bool = Field(description="It is told where things go.")
    style: bool = Field(description="It heeds a picture that the whole is to be like.")
    subject: bool = Field(description="An adapter is a subject's; {subject} in a prompt is it.")
    wordless: bool = Field(description="No prompt is needed where each placement has a reference.")
    prompt: str = Field(description="A prompt that it takes, with the most placements.")

    @classmethod
    def of(cls, accepts: Accepts, *, subject: bool) -> "Takes":
        """In the words of the API."""
        needs = accepts.needs - FOUND
        takes = accepts.takes | (accepts.needs & FOUND)
        return cls(
            placements=accepts.placements, subject=subject,
            needs=sorted(NAMES.get(name, name) for name in needs),
            takes=sorted(NAMES.get(name, name) for name in takes),
            **{
                name: getattr(accepts, name)
                for name in (
                    "negative_prompt", "free", "keeps", "places", "style", "wordless", "prompt"
                )
            },
        )  # fmt: skip


class MethodAnswer(BaseModel):
    """A method, and what can be asked of it."""

    name: str
    base: str
    size: int = Field(description="Side in pixels of the pictures that its base works on.")
    steps: int = Field(description="Of sampling, where a request does not say.")
    takes: Takes


class MethodsAnswer(BaseModel):
    """Methods that are served, and what else the server does."""

    methods: list[MethodAnswer]
    layout: bool = Field(description="POST /v1/layouts lays a described scene out.")
    most_steps: int
    most_pixels: int


class AdapterAnswer(BaseModel):
    """A registered adapter, with the versions that its aliases mean."""

    name: str
    method: str
    subject: str | None
    aliases: dict[str, str]


class AdaptersAnswer(BaseModel):
    """Some of the adapters, by name; `next` begins the others."""

    adapters: list[AdapterAnswer]
    next: str | None


class VersionAnswer(BaseModel):
    """A version of an adapter, and what it takes."""

    name: str
    version: str
    digest: str
    class_word: str | None
    attributes: dict[str, list[str]] | None
    takes: Takes


def routes(service: Service) -> APIRouter:
    """Of a server."""
    router = APIRouter()

    @router.get("/healthz", tags=["server"])
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @router.get("/readyz", tags=["server"])
    def readyz() -> JSONResponse:
        """Whether it takes requests; what does not work stands in `problems`."""
        state = service.state()
        return JSONResponse(dict(state), status_code=200 if state["ready"] else 503)

    @router.get("/metrics", tags=["server"], response_class=PlainTextResponse)
    def metrics() -> PlainTextResponse:
        """Counters, for Prometheus."""
        return PlainTextResponse(service.metrics.text())

    @router.get("/v1/methods", tags=["what there is"])
    def methods() -> MethodsAnswer:
        """The methods that are served, and what can be asked of each."""
        params = service.params
        found = [_method(service, method) for method in service.methods.values()]
        return MethodsAnswer(
            methods=found, layout=service.language is not None,
            most_steps=params.serving.steps, most_pixels=params.serving.pixels,
        )  # fmt: skip

    @router.get("/v1/adapters", tags=["what there is"])
    def adapters(
        method: str | None = Query(default=None, max_length=64),
        after: str = Query(default="", max_length=128, description="A name; those after it."),
        limit: int = Query(default=100, ge=1, le=1000),
    ) -> AdaptersAnswer:
        """Registered adapters by name, as MLflow last told them."""
        found = [
            (name, aliases)
            for name, aliases in sorted(service.engine.catalog.aliases().items())
            if name > after and (method is None or name.partition(".")[0] == method)
        ]
        shown = [
            AdapterAnswer(
                name=name, method=name.partition(".")[0], subject=name.partition(".")[2] or None,
                aliases=dict(aliases),
            )
            for name, aliases in found[:limit]
        ]  # fmt: skip
        return AdaptersAnswer(adapters=shown, next=shown[-1].name if len(found) > limit else None)

    @router.get("/v1/adapters/{name}", tags=["what there is"])
    async def adapter(
        name: str = Path(pattern=ADAPTER), version: str = Query(default=CHAMPION, pattern=VERSION)
    ) -> VersionAnswer:
        """One version, and what it takes."""
        return await run_in_threadpool(_version, service, name, version)

    return router


def _method(service: Service, method: Method) -> MethodAnswer:
    name = method.name
    return MethodAnswer(
        name=name, base=method.base, size=service.engine.bases[method.base].size,
        steps=method.settings.steps,
        takes=Takes.of(method.accepts, subject=name == service.params.tune.method),
    )  # fmt: skip


def _version(service: Service, name: str, version: str) -> VersionAnswer:
    entry = service.engine.catalog.resolve(name, version)
    held = service.engine.shelf.get(entry)
    card: Any = held.package.card
    return VersionAnswer(
        name=entry.name, version=entry.version, digest=entry.digest, class_word=card.class_word,
        attributes=card.attributes,
        takes=Takes.of(held.method().accepts, subject=card.subject is not None),
    )  # fmt: skip
