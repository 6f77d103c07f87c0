"""Routes that paint: at once, as a job with progress, and in the form of OpenAI's image edits."""

import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from insitu.errors import UserError
from insitu.serving import edits
from insitu.serving.asking import PlaceRequest, read
from insitu.serving.pictures import encode, png
from insitu.serving.refusals import Unknown
from insitu.serving.room import Cancelled, Job, State
from insitu.serving.service import Service

PNG: dict[int | str, dict[str, Any]] = {
    200: {"description": "The picture.", "content": {"image/png": {}}}
}
LOOK_S = 0.05
"""Seconds between two looks at a job's progress."""


class PlaceAnswer(BaseModel):
    """The picture, a PNG in base64 of the photo's size, and the adapter that painted it."""

    image: str
    adapter: str = Field(description="The adapter's registered name.")
    version: str
    digest: str
    seed: int


class JobAnswer(BaseModel):
    """A picture on its way."""

    id: str
    state: State
    progress: float = Field(description="Share of the sampling that is done, 0 to 1.")
    adapter: str
    version: str
    digest: str
    batch: int = Field(description="How many were painted together.")
    waited_s: float
    painted_s: float
    error: dict[str, str] | None = Field(description="Why it failed: given, why, to do.")
    events: str = Field(description="Where its progress is told, as server-sent events.")
    image: str = Field(description="Where the picture is, a PNG, when it is done.")

    @classmethod
    def of(cls, job: Job) -> "JobAnswer":
        where = f"/v1/jobs/{job.id}"
        return cls(
            id=job.id, state=job.state, progress=job.progress, adapter=job.entry.name,
            version=job.entry.version, digest=job.entry.digest, batch=job.batch,
            waited_s=round(job.waited_s, 4), painted_s=round(job.painted_s, 4),
            error=_problem(job.error), events=f"{where}/events", image=f"{where}/image",
        )  # fmt: skip


def _problem(error: Exception | None) -> dict[str, str] | None:
    if error is None:
        return None
    if isinstance(error, UserError):
        return {"given": error.given, "why": error.why, "to do": error.todo}
    return {
        "given": "A picture was asked for.",
        "why": "The server failed.",
        "to do": "See its log.",
    }


def routes(service: Service) -> APIRouter:
    """Of a server."""
    router = APIRouter(tags=["painting"])
    body: dict[str, Any] = {"openapi_extra": {"requestBody": _body()}}

    @router.post("/v1/place", response_model=PlaceAnswer, responses=PNG, **body)
    async def place(request: Request) -> Response:
        """Put things into a photo, or paint a whole picture; wait for it.

        With `Accept: image/png` the answer is the picture, and the rest stands in its headers.
        """
        asked = await service.ask(*await read(request, service.limits))
        job = await service.painted(asked, request)
        entry, seed = job.entry, asked.request.seed
        _tell(request, job)
        if "image/png" in request.headers.get("accept", ""):
            headers = {
                "X-Insitu-Adapter": entry.name, "X-Insitu-Version": entry.version,
                "X-Insitu-Digest": entry.digest, "X-Insitu-Seed": str(seed),
            }  # fmt: skip
            return Response(
                await run_in_threadpool(png, job.result()), media_type="image/png", headers=headers
            )
        told = {
            "image": await run_in_threadpool(encode, job.result()), "adapter": entry.name,
            "version": entry.version, "digest": entry.digest, "seed": seed,
        }  # fmt: skip
        return JSONResponse(told)

    @router.post("/v1/jobs", status_code=202, response_model=JobAnswer, **body)
    async def start(request: Request) -> JobAnswer:
        """The same as a job: look at it, follow it, fetch its picture, cancel it."""
        asked = await service.ask(*await read(request, service.limits))
        job = service.room.submit(asked, request.state.owner, keep=True)
        _tell(request, job)
        return JobAnswer.of(job)

    def known(request: Request, id: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]) -> Job:
        job = service.room.find(id, request.state.owner)
        if job is None:
            raise Unknown(
                f"The job {id} was asked for.",
                "There is none of that name, or it is no longer kept.",
                "Start it again.",
            )
        return job

    Known = Annotated[Job, Depends(known)]

    @router.get("/v1/jobs/{id}")
    def look(job: Known) -> JobAnswer:
        """How far a job is."""
        return JobAnswer.of(job)

    @router.get("/v1/jobs/{id}/events", response_class=EventSourceResponse)
    async def follow(job: Known) -> AsyncIterator[ServerSentEvent]:
        """A job's progress as server-sent events, until it is over."""
        told: Any = None
        while True:
            now = JobAnswer.of(job)
            if (now.state, now.progress) != told:
                told = (now.state, now.progress)
                yield ServerSentEvent(event=now.state, raw_data=now.model_dump_json())
            if job.over:
                return
            await anyio.sleep(LOOK_S)

    @router.get("/v1/jobs/{id}/image", response_class=Response, responses=PNG)
    async def image(job: Known) -> Response:
        """A job's picture, a PNG.

        Until it is done this is refused, with the state in the refusal.
        """
        try:
            if job.state == "failed":
                job.result()
            if job.image is None:
                raise Cancelled
        except Cancelled:
            raise Unknown(
                f"The picture of the job {job.id} was asked for.",
                f"It is {job.state}.",
                "Follow its events, or start it again.",
            ) from None
        return Response(await run_in_threadpool(png, job.image), media_type="image/png")

    @router.delete("/v1/jobs/{id}")
    def cancel(job: Known) -> JobAnswer:
        """End a job; one that is over stays as it is."""
        service.room.cancel(job)
        return JobAnswer.of(job)

    @router.post("/v1/images/edits")
    async def edit(request: Request) -> JSONResponse:
        """One place painted anew, asked and answered as OpenAI's image edits are."""
        wanted, files, count = await edits.read(request, service.limits)
        pictures = []
        for number in range(count):
            one = wanted.model_copy(update={"seed": (wanted.seed + number) % 2**31})
            job = await service.painted(await service.ask(one, files), request)
            _tell(request, job)
            pictures.append({"b64_json": await run_in_threadpool(encode, job.result())})
        return JSONResponse({"created": int(time.time()), "data": pictures})

    edits.describe(router.routes[-1])
    return router


def _tell(request: Request, job: Job) -> None:
    """For the line in the log."""
    request.state.told = {
        "adapter": job.entry.name, "version": job.entry.version, "job": job.id,
        "batch": job.batch, "waited_s": round(job.waited_s, 4),
    }  # fmt: skip


def _body() -> Mapping[str, Any]:
    """Both forms of a request, for the description of the API."""
    reference = {"$ref": f"#/components/schemas/{PlaceRequest.__name__}"}
    form = {
        "type": "object",
        "properties": {
            "request": {
                "type": "string",
                "description": f"{PlaceRequest.__name__} as JSON; pictures as part:NAME.",
                "contentMediaType": "application/json",
            }
        },
        "required": ["request"],
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    return {
        "required": True,
        "content": {
            "application/json": {"schema": reference},
            "multipart/form-data": {"schema": form},
        },
    }
