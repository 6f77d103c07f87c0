"""One request to a server that speaks OpenAI's chat completions, and what its failure means."""

import base64
import io
import math
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import openai
from PIL import Image as Pictures

from insitu.errors import UserError
from insitu.perception.language import Image, Question, prompt

WORTH_ANOTHER_TRY = (408, 409, 429)  # and 5xx
USELESS = {
    401: "Set {variable} to a valid key.",
    402: "Top up the account, or ask another server.",
    403: "Use a key in {variable} that may ask this model.",
    404: "Correct the address or the model's name.",
}
BAD_REQUEST = (400, 422)
LONGEST_REASON = 300  # characters of a server's own words


class Again(Exception):
    """A failure that may pass, and for how many seconds the server asks to be left alone."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Hopeless(Exception):
    """A failure of this one question that no further try would mend."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a model wrote, why it may be no whole answer, and its tokens if the server counts."""

    text: str
    problem: str
    tokens: tuple[int, int] | None
    """Read and written."""


class Pace:
    """Starts requests evenly, `per_minute` of them, however many threads ask for their turn."""

    def __init__(
        self, per_minute: float, clock: Callable[[], float], sleep: Callable[[float], None]
    ) -> None:
        self.interval_s = 60 / per_minute
        self._clock, self._sleep = clock, sleep
        self._lock, self._next = threading.Lock(), -math.inf

    def wait(self) -> None:
        """Return when it is this caller's turn. Unused turns are not saved up for a burst."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self.interval_s
        if turn > now:
            self._sleep(turn - now)


class Connection:
    """Sends questions to one model on one server; each request waits for its turn."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        key: str,
        key_variable: str,
        timeout_s: float,
        max_tokens: int,
        temperature: float | None,
        pace: Pace,
        on_request: Callable[[], None],
    ) -> None:
        self.base_url, self.model, self.key_variable = base_url, model, key_variable
        self._key, self._pace, self._on_request = key, pace, on_request
        # The client's own retries would escape the pace, the count and the cost.
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key or "none", timeout=timeout_s, max_retries=0
        )
        self._settings: dict[str, Any] = {"model": model, "max_tokens": max_tokens}
        if temperature is not None:
            self._settings["temperature"] = temperature
        self._takes_format = True

    def send(self, question: Question, exchange: list[dict[str, Any]]) -> Reply:
        """Ask once; `exchange` are the turns after the question.

        A server that refuses `response_format` is asked without it from then on. It is known by
        the same question being welcome without: a 400 alone may be about a picture's size.

        Raises:
            Again, Hopeless: for this question.
            UserError: for every question.
        """
        messages = [{"role": "user", "content": _content(question)}, *exchange]
        if self._takes_format:
            try:
                return self._send(messages, response_format=_format(question))
            except Hopeless as error:
                if error.status not in BAD_REQUEST:
                    raise
            reply = self._send(messages)
            self._takes_format = False
            return reply
        return self._send(messages)

    def _send(self, messages: list[dict[str, Any]], **extra: Any) -> Reply:
        self._pace.wait()
        self._on_request()
        create: Any = self._client.chat.completions.create  # its overloads know no plain dicts
        failure: Exception
        try:
            return self._read(create(messages=messages, **self._settings, **extra))
        except openai.APIStatusError as error:
            failure = self._meaning(error)
        except openai.APITimeoutError:
            failure = Again("the server was silent for too long")
        except openai.APIConnectionError as error:
            failure = Again(self.safe(f"the connection broke: {error.__cause__ or error}"))
        except (openai.APIResponseValidationError, ValueError) as error:
            failure = Again(self.safe(f"the server's reply is not JSON: {error}"))
        # Outside of the handlers: a traceback would print the client's errors, which quote the
        # server's words, and some servers quote the key.
        raise failure

    def _meaning(self, error: openai.APIStatusError) -> Exception:
        status = error.status_code
        said = self.safe(f"the server answered {status}: {error.message}")
        if status in WORTH_ANOTHER_TRY or status >= 500:
            return Again(said, asked_wait_s(error.response.headers.get("retry-after"), time.time()))
        if status in USELESS:
            variable = f"${self.key_variable}" if self.key_variable else "a variable"
            return UserError(
                f"The model {self.model!r} was asked at {self.base_url}.",
                f"No question can be answered: {said.rstrip('.')}.",
                f"{USELESS[status].format(variable=variable)} Answers up to now are kept.",
            )
        return Hopeless(said, status)

    def _read(self, completion: Any) -> Reply:
        """Read a reply without trust: the client checks nothing, and servers differ."""
        choices = getattr(completion, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        content = getattr(message, "content", "")
        if message is None or isinstance(message, str):
            raise Again(self.safe(f"the server's reply holds no message: {completion!r}"))
        problem = ""
        if getattr(choice, "finish_reason", None) == "length":
            problem = f"it was cut off after {self._settings['max_tokens']} tokens"
        elif getattr(message, "refusal", None):
            problem = f"the model refused: {message.refusal}"
        # Half of a surrogate pair is legal in JSON, but can be neither kept nor sent back.
        text = content.encode(errors="replace").decode() if isinstance(content, str) else ""
        usage = getattr(completion, "usage", None)
        read, written = (
            getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion")
        )
        tokens = None
        if isinstance(read, int) and isinstance(written, int):
            tokens = (read, written)
        return Reply(text=text, problem=problem, tokens=tokens)

    def safe(self, text: str) -> str:
        """A server's words in one short line, without the key."""
        hidden = text.replace(self._key, "***") if self._key else text
        return " ".join(hidden.split())[:LONGEST_REASON]


def asked_wait_s(retry_after: str | None, now: float) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number, or a date."""
    if retry_after is None:
        return 0.0
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except ValueError:
            return 0.0
        seconds = date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now
    return max(seconds, 0.0) if not math.isnan(seconds) else 0.0


def _content(question: Question) -> list[dict[str, Any]]:
    pictures = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_png(image)}"}}
        for image in question.images
    ]
    return [*pictures, {"type": "text", "text": prompt(question)}]


def _png(image_HWC: Image) -> str:
    file = io.BytesIO()
    Pictures.fromarray(image_HWC).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _format(question: Question) -> dict[str, Any]:
    # Not `strict`: OpenAI then refuses most schemas that pydantic writes (ranges, defaults).
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", question.answer.__name__)[:64]
    schema = {"name": name, "schema": question.answer.model_json_schema()}
    return {"type": "json_schema", "json_schema": schema}
