"""A vision-language model behind an address that speaks OpenAI's chat completions.

Questions are sent at a steady pace and with bounded concurrency, again where that may help, and
each answer is kept before it is returned: a run that was killed goes on where it stopped.
"""

import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from insitu.errors import UserError
from insitu.perception.language import Question, Unanswered, correction, find_object, parse
from insitu.perception.language.cache import AnswerCache, key_of
from insitu.perception.language.connection import Again, Connection, Hopeless, Pace, Reply

FIRST_WAIT_S = 1.0  # before a second try; doubles with each further one
LONGEST_WAIT_S = 60.0
LONGEST_ASKED_WAIT_S = 600.0  # a server that asks for more is not waited for
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one EndpointModel has asked and paid; answers thrown away cost as much as others."""

    requests: int = 0
    """HTTP requests sent."""
    answers: int = 0
    """Answers of the server that could be used."""
    cached: int = 0
    """Answers that had been kept, at no request."""
    retries: int = 0
    """Tries after a question's first."""
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    """In the currency of the prices."""


class EndpointModel:
    """Asks a model on a server. One object may be used by many threads at once."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        revision: str = "",
        key_variable: str,
        concurrency: int,
        requests_per_minute: float,
        timeout_s: float,
        tries: int,
        max_tokens: int,
        temperature: float | None = 0.0,
        price_in: float = 0.0,
        price_out: float = 0.0,
        max_cost: float | None = None,
        cache: str | Path,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Read the key and open the cache; nothing is sent yet.

        Args:
            base_url: the address up to and with its version, e.g. "http://localhost:8000/v1".
            model: the model's name on that server.
            revision: which weights, or which dated version, that name stands for.
            key_variable: the environment variable that holds the key; empty if none is needed.
            concurrency: requests in flight at most.
            requests_per_minute: how often requests start, evenly spaced, retries among them.
            timeout_s: the longest silence of the server that is borne.
            tries: how often one question is asked at most.
            max_tokens: an answer's length at most.
            temperature: of sampling; None leaves it to servers that refuse to be told.
            price_in, price_out: for a million tokens read and written.
            max_cost: nothing more is asked once this is spent, and what remains is `Unanswered`
                rather than an error, so that no paid answer is lost. Requests in flight,
                `concurrency` at most, are still paid. None is no limit.
            cache: the folder of kept answers; several processes may share it.
            clock, sleep, draw: time in seconds, waiting, and random numbers in 0..1 for jitter.

        Raises:
            UserError: the variable is not set, or the cache cannot be read.
        """
        key = os.environ.get(key_variable, "") if key_variable else ""
        if key_variable and not key:
            raise UserError(
                f"The key for {base_url} is to come from ${key_variable}.",
                "That environment variable is not set, or empty.",
                "Set it, or leave the variable's name empty for a server without keys.",
            )
        self.name = f"{model}@{revision}" if revision else model
        self.base_url, self.tries = base_url, tries
        self.price_in, self.price_out, self.max_cost = price_in, price_out, max_cost
        self._answer_settings = (max_tokens, temperature)
        self._sleep, self._draw = sleep, draw
        self._connection = Connection(
            base_url=base_url, model=model, key=key, key_variable=key_variable,
            timeout_s=timeout_s, max_tokens=max_tokens, temperature=temperature,
            pace=Pace(requests_per_minute, clock, sleep),
            on_request=lambda: self._count(requests=1),
        )  # fmt: skip
        self._cache = AnswerCache(Path(cache))
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="ask")
        self._lock = threading.Lock()  # over the two below
        self._usage = Usage()
        self._flights: dict[tuple[str, type[BaseModel]], Future[BaseModel | Unanswered]] = {}

    @property
    def usage(self) -> Usage:
        """Requests, tokens and cost up to now."""
        with self._lock:
            return self._usage

    def ask(self, questions: Sequence[Question]) -> list[BaseModel | Unanswered]:
        """Return one answer for each question, in order; equal ones are asked once.

        Raises:
            UserError: the server refuses the key, the address or the model, or does not count the
                tokens of an answer that has a price. Answers up to then are kept.
        """
        flights = [self._flight(question) for question in questions]
        try:
            wait(flights, return_when=FIRST_EXCEPTION)
            for flight in flights:
                if flight.done() and not flight.cancelled():
                    flight.result()  # raises what went wrong, if anything
        finally:
            for flight in flights:
                flight.cancel()  # those not begun; if nothing went wrong, all are done
        return [
            # Cancelled: by another caller who had asked the same, and whose other questions failed.
            self.ask([question])[0] if flight.cancelled() else flight.result()
            for question, flight in zip(questions, flights, strict=True)
        ]

    def _flight(self, question: Question) -> Future[BaseModel | Unanswered]:
        """The asking of this question that is under way, begun here if there is none."""
        # base_url does not enter the key: the same model at a new port, or on a second server,
        # would be paid again for answers that lineage cannot tell apart. `revision`, which is
        # part of the name, tells different weights apart.
        key = key_of(question, self.name, *self._answer_settings)
        with self._lock:
            flight = self._flights.get((key, question.answer))
            if flight is None or flight.cancelled():
                flight = self._pool.submit(self._settle, question, key)
                self._flights[key, question.answer] = flight
        return flight

    def _settle(self, question: Question, key: str) -> BaseModel | Unanswered:
        try:
            kept = self._kept(question, key)
            return self._ask(question, key) if kept is None else kept
        finally:
            # After the answer is kept: who comes later finds it there.
            with self._lock:
                self._flights.pop((key, question.answer), None)

    def _kept(self, question: Question, key: str) -> BaseModel | None:
        text = self._cache.get(key)
        if text is None:
            return None
        answer = parse(text, question.answer)
        if isinstance(answer, str):  # a damaged file, or a validator that has become stricter
            return None
        self._count(cached=1)
        return answer

    def _ask(self, question: Question, key: str) -> BaseModel | Unanswered:
        exchange: list[dict[str, Any]] = []
        reason = ""
        for number in range(1, self.tries + 1):
            if self.max_cost is not None and self.usage.cost >= self.max_cost:
                return Unanswered(f"the cost limit of {self.max_cost:g} is reached")
            self._count(retries=int(number > 1))
            try:
                reply = self._connection.send(question, exchange)
            except Hopeless as error:
                return Unanswered(str(error))
            except Again as error:
                reason = str(error)
                if error.wait_s > LONGEST_ASKED_WAIT_S:
                    return Unanswered(f"{reason}, and to wait for {error.wait_s:.0f} s")
                if number < self.tries:
                    self._sleep(max(error.wait_s, self._backoff_s(number)))
                continue
            answer = self._usable(reply, question, key)
            if not isinstance(answer, str):
                return answer
            reason = f"the answer cannot be used: {answer}"
            exchange = [{"role": "user", "content": correction(answer)}]
            if reply.text:  # servers refuse an empty turn
                exchange.insert(0, {"role": "assistant", "content": reply.text})
        return Unanswered(f"{reason} (the last of {self.tries} tries)")

    def _usable(self, reply: Reply, question: Question, key: str) -> BaseModel | str:
        """Pay for a reply, keep its answer and return it, or return what is wrong with it."""
        answer = parse(reply.text, question.answer)
        usable = not isinstance(answer, str)
        if usable:
            # As the model wrote it, since pydantic's own dump is not always what it would read.
            self._cache.put(key, find_object(reply.text) or "")
        tokens_in, tokens_out = reply.tokens or (0, 0)
        cost = (tokens_in * self.price_in + tokens_out * self.price_out) / MILLION
        self._count(answers=int(usable), tokens_in=tokens_in, tokens_out=tokens_out, cost=cost)
        if reply.tokens is None and (self.price_in or self.price_out):
            raise UserError(
                f"Answers of {self.name} at {self.base_url} have a price.",
                "The server does not say how many tokens they took, so their cost is unknown.",
                "Set both prices to 0 and watch the cost elsewhere. Answers up to now are kept.",
            )
        if isinstance(answer, str):
            return self._connection.safe(reply.problem or answer)
        return answer

    def _backoff_s(self, number: int) -> float:
        """Seconds after the nth failure: exponential, from half to the whole of it at random.

        At random, so that threads that failed together do not come back together.
        """
        longest = min(FIRST_WAIT_S * 2.0 ** (number - 1), LONGEST_WAIT_S)
        return longest * (1 + self._draw()) / 2

    def _count(self, **more: float) -> None:
        with self._lock:
            before = asdict(self._usage)
            self._usage = Usage(**before | {name: before[name] + n for name, n in more.items()})
