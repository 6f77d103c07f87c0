"""What a request passes before anything is read of it: bounds, keys, an id, a line in the log."""

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from insitu.errors import UserError
from insitu.serving.keys import Keys, scope_of
from insitu.serving.refusals import GONE, Failed, Forbidden, Refusal, TooLarge, TooSlow, answer

MIB = 2**20
HERE = frozenset({"127.0.0.1", "::1", "localhost"})
ID = "x-request-id"
PAINTS = frozenset({"/v1/place", "/v1/jobs", "/v1/images/edits"})
"""Paths whose bodies are not even read while no more may wait."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
log = structlog.get_logger("insitu.http")


class Guards:
    """Middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        body_mib: int,
        upload_s: float,
        keys: Keys | None,
        require_room: Callable[[], None],
        observe: Callable[[str, int, float], None],
    ) -> None:
        """
        Args:
            body_mib: of a body, at most; upload_s: seconds for it to arrive.
            keys: None = none are asked for.
            require_room: raises where no more requests may wait.
            observe: told of route, status and seconds of each request.
        """
        self._app, self._most, self._upload_s = app, body_mib * MIB, upload_s
        self._keys, self._require_room, self._observe = keys, require_room, observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, began = Headers(scope=scope), time.monotonic()
        given = headers.get(ID, "")
        number = given if re.fullmatch(r"[\w.-]{1,64}", given) else uuid.uuid4().hex
        status = 0

        async def answering(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                sent[ID] = number
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
            await send(message)

        state = scope.setdefault("state", {})
        state["owner"] = ""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=number)
        try:
            try:
                state["owner"] = self._admit(scope, headers)
            except UserError as error:
                await answer(error)(scope, receive, answering)
            else:
                await self._app(scope, self._bounded(receive), answering)
        except ClientDisconnect:  # while its body was read
            status = status or GONE
        except Exception as error:
            log.error("failed", path=scope["path"][:200], exc_info=error)
            if status == 0:
                await answer(_failed(scope))(scope, receive, answering)
        finally:
            seconds = time.monotonic() - began
            route = getattr(scope.get("route"), "path", "other")
            self._observe(route, status, seconds)
            log.info(
                "request", method=scope["method"], path=scope["path"][:200], status=status,
                seconds=round(seconds, 4), owner=state["owner"], **state.get("told", {}),
            )  # fmt: skip

    def _admit(self, scope: Scope, headers: Headers) -> str:
        """Whose request it is. Raises what refuses it."""
        method, path = scope["method"], scope["path"]
        declared = headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > self._most:
            raise self._too_large(declared)
        needed, owner = scope_of(method, path), ""
        if needed is not None and self._keys is not None:
            kind, _, key = headers.get("authorization", "").partition(" ")
            owner = self._keys.owner(key.strip() if kind.lower() == "bearer" else None, needed)
        if self._keys is None:
            _require_own_page(headers)
        if method == "POST" and path in PAINTS:
            self._require_room()
        return owner

    def _bounded(self, receive: Receive) -> Receive:
        """The body's parts, as long as they are not too many and come in time."""
        taken, whole = 0, False
        deadline = time.monotonic() + self._upload_s

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:
                return await receive()
            try:
                left = max(0.0, deadline - time.monotonic())
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise TooSlow(
                    f"{taken} bytes of a body were sent.",
                    f"The rest did not arrive within {self._upload_s:g} s.",
                    "Send it faster, or a smaller picture.",
                    {"Connection": "close"},
                ) from None
            taken += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if taken > self._most:
                raise self._too_large(f"more than {self._most}")
            return message

        return bounded

    def _too_large(self, sent: str) -> TooLarge:
        return TooLarge(
            f"A body of {sent[:40]} bytes was sent.",
            f"At most {self._most} bytes are taken.",
            "Send smaller pictures.",
            {"Connection": "close"},
        )


def _require_own_page(headers: Headers) -> None:
    """Without keys, whoever reaches the server may use it: pages of others, open in a browser on
    this machine, may not, under whatever name they reach it.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    foreign = urlsplit(f"//{host}").hostname not in HERE
    if foreign or (origin is not None and urlsplit(origin).netloc != host):
        raise Forbidden(
            f"A request came to {host[:120]}"
            + (f", from a page of {origin[:120]}." if origin else "."),
            "Without keys, only this machine and this server's own page are answered.",
            "Open http://127.0.0.1 with its port, or have the server ask for keys (serving.keys).",
        )


def _failed(scope: Scope) -> Refusal:
    return Failed(
        f"{scope['method']} {scope['path'][:200]} was asked for.",
        "The server failed at it; that is a defect.",
        "Tell whoever runs it the x-request-id: its log says more.",
    )


def configure_logs(level: str = "info") -> None:
    """Lines of JSON on standard error, each with its request's id."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(_stderr()),
        cache_logger_on_first_use=True,
    )


def _stderr() -> Any:
    import sys

    return sys.stderr
