"""Refusals over HTTP: three parts, with the status and the code that programs go by."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from insitu.errors import UserError
from insitu.registry.server import Unreachable
from insitu.registry.store import NotRegistered

GONE = 499
"""The status in logs and counters of a client that left before its answer."""


class Refusal(UserError):
    """One with a status of its own."""

    status, code = 422, "invalid"

    def __init__(
        self, given: str, why: str, todo: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(given, why, todo)
        self.headers = dict(headers or {})


class Unknown(Refusal):
    """There is nothing of that name."""

    status, code = 404, "unknown"


class Denied(Refusal):
    """No key was given, or none that is known."""

    status, code = 401, "unauthorized"


class Forbidden(Refusal):
    """The key is not for that."""

    status, code = 403, "forbidden"


class TooLarge(Refusal):
    """More was sent than is taken."""

    status, code = 413, "too_large"


class TooSlow(Refusal):
    """It did not arrive in time."""

    status, code = 408, "timeout"


class Busy(Refusal):
    """As much is waiting as may wait."""

    status, code = 429, "busy"


class Closing(Refusal):
    """The server is ending."""

    status, code = 503, "closing"


class Failed(Refusal):
    """A defect of the server's own."""

    status, code = 500, "failed"


def answer(error: UserError) -> JSONResponse:
    """A refusal as its answer."""
    status, code, headers = 422, "invalid", {}
    if isinstance(error, Refusal):
        status, code, headers = error.status, error.code, error.headers
    elif isinstance(error, NotRegistered):
        status, code = 404, "unknown"
    elif isinstance(error, Unreachable):
        status, code, headers = 503, "unavailable", {"Retry-After": "5"}
    parts = {
        "code": code, "message": str(error),
        "given": error.given, "why": error.why, "to do": error.todo,
    }  # fmt: skip
    return JSONResponse({"error": parts}, status_code=status, headers=headers)
