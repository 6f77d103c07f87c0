"""The HTTP API and the studio around a service."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from insitu import __version__
from insitu.errors import UserError
from insitu.serving import about, layouts, painting, studio
from insitu.serving.asking import PlaceRequest, Refused, invalid
from insitu.serving.guards import Guards
from insitu.serving.refusals import GONE, Refusal, answer
from insitu.serving.service import Gone, Service

SUMMARY = "Puts chosen subjects at chosen places in an image."
TEMPLATE = "#/components/schemas/{model}"
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Refused, "description": text}
    for status, text in {
        401: "No key, or an unknown one.", 403: "Not with this key.", 404: "There is none.",
        408: "It arrived too slowly.", 413: "Too much was sent.", 422: "It cannot be done.",
        429: "As much waits as may wait.", 503: "Not now.",
    }.items()
}  # fmt: skip


class _Other(Refusal):
    """What the framework refuses: unknown paths, methods, broken forms."""


def make_app(service: Service) -> FastAPI:
    """The application; it begins and ends the service."""

    @contextlib.asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.begin)
        try:
            yield
        finally:
            await run_in_threadpool(service.end)

    app = FastAPI(
        title="insitu", summary=SUMMARY, version=__version__, lifespan=alive, redoc_url=None,
        docs_url=None, responses=REFUSALS,
    )  # fmt: skip
    limits = service.limits
    app.add_middleware(
        Guards, body_mib=limits.body_mib, upload_s=limits.upload_s, keys=service.keys,
        require_room=service.room.require_room, observe=service.metrics.request,
    )  # fmt: skip
    for part in (about, painting, layouts, studio):
        app.include_router(part.routes(service))

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> Response:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(_: Request, error: RequestValidationError) -> Response:
        return answer(invalid(error.errors()))

    @app.exception_handler(HTTPException)
    async def refuse_other(request: Request, error: HTTPException) -> Response:
        refusal = _Other(
            f"{request.method} {request.url.path[:200]} was asked for.",
            f"{error.detail}.",
            "GET /openapi.json tells what there is.",
            error.headers,
        )
        refusal.status, refusal.code = error.status_code, "refused"
        return answer(refusal)

    @app.exception_handler(Gone)
    async def left(_: Request, __: Gone) -> Response:
        return Response(status_code=GONE)

    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI with the body that is read by hand."""
    if app.openapi_schema is None:
        made = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        own = PlaceRequest.model_json_schema(ref_template=TEMPLATE)
        schemas.update(own.pop("$defs", {}))
        schemas[PlaceRequest.__name__] = own
        app.openapi_schema = made
    return app.openapi_schema
