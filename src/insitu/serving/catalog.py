"""Which version a name means now: asked of MLflow once, then followed.

A request never waits for MLflow where its adapter was asked for before. One thread looks at all
aliases every few seconds; where one has moved, the new version's package is fetched and verified
first, and only then does the name mean it. While MLflow does not answer, names mean what
they meant; they are kept on disk, so that a server can also start without MLflow.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.registry.server import Unreachable
from insitu.registry.store import Entry, Store

NAMES = "names.json"
log = structlog.get_logger("insitu.catalog")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What does not work at the moment, and since when (seconds since 1970)."""

    why: str
    since: float


class Catalog:
    """Names and aliases, followed.

    Attributes:
        problems: by part (`registry`, or an adapter that cannot be had), as long as they last.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        folder: Path,
        *,
        methods: frozenset[str],
        follow_s: float,
        prepare: Callable[[Entry], object],
    ) -> None:
        """
        Args:
            connect: reaches the server; asked again as long as it fails.
            folder: where names are kept.
            methods: whose adapters there are; others are not seen.
            prepare: makes a version ready to paint with.
        """
        self.problems: dict[str, Problem] = {}
        self._connect = connect
        self._store: Store | None = None
        self._file, self._methods = folder / NAMES, methods
        self._follow_s, self._prepare = follow_s, prepare
        self._known: dict[tuple[str, str], Entry] = {}
        self._aliases: dict[str, dict[str, str]] = {}
        self._lock, self._connecting = threading.Lock(), threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="catalog", daemon=True)
        self._restore()

    @property
    def store(self) -> Store:
        """The registry. Raises Unreachable."""
        with self._connecting:
            if self._store is None:
                self._store = self._connect()
            return self._store

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ending.set()

    def resolve(self, name: str, version: str) -> Entry:
        """The version that a number or an alias means.

        Raises:
            NotRegistered: there is none.
            Unreachable: nobody asked for it before, and MLflow does not answer.
        """
        known = self._known.get((name, version))
        if known is not None:
            return known
        entry = self.store.resolve(name, version)
        self._remember((name, version), entry)
        return entry

    def aliases(self) -> Mapping[str, Mapping[str, str]]:
        """Every adapter's versions by alias, as they were when MLflow last answered."""
        return dict(self._aliases)

    def follow(self) -> None:
        """Look once at all aliases, and follow those that have moved."""
        try:
            found = self._seen()
        except Exception as error:  # whatever it is, what is loaded is served on
            self._problem("registry", error)
            return
        self._solved("registry")
        self._aliases = found
        for (name, alias), known in list(self._known.items()):
            if not alias.isdigit() and found.get(name, {}).get(alias) != known.version:
                self._moved(name, alias, found)
        self._save()

    def _seen(self) -> dict[str, dict[str, str]]:
        return {
            name: aliases
            for name, aliases in self.store.aliases().items()
            if name.partition(".")[0] in self._methods
        }

    def _moved(self, name: str, alias: str, found: Mapping[str, Mapping[str, str]]) -> None:
        version = found.get(name, {}).get(alias)
        if version is None:
            with self._lock:
                self._known.pop((name, alias), None)
            log.info("alias gone", adapter=name, alias=alias)
            return
        try:
            entry = self.store.resolve(name, version)
            self._prepare(entry)
        except (UserError, OSError) as error:
            self._problem(f"{name} {version}", error)
            return
        self._solved(f"{name} {version}")
        self._remember((name, alias), entry)
        log.info("alias moved", adapter=name, alias=alias, version=version, digest=entry.digest)

    def _remember(self, key: tuple[str, str], entry: Entry) -> None:
        with self._lock:
            self._known[key] = entry
        self._save()

    def _save(self) -> None:
        with self._lock:
            told = [[*key, asdict(entry)] for key, entry in sorted(self._known.items())]
            text = json.dumps({"known": told, "aliases": self._aliases}, indent=1)
        try:
            if not self._file.exists() or self._file.read_text(encoding="utf-8") != text:
                replace_text(self._file, text)
        except OSError as error:
            self._problem("disk", error)
        else:
            self._solved("disk")

    def _restore(self) -> None:
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
            self._aliases = told["aliases"]
            for name, version, entry in told["known"]:
                if name.partition(".")[0] in self._methods:
                    entry["aliases"] = tuple(entry["aliases"])
                    self._known[name, version] = Entry(**entry)
        except FileNotFoundError:
            return
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.warning("names are not known", file=str(self._file), why=repr(error))

    def _run(self) -> None:
        while not self._ending.wait(self._follow_s):
            self.follow()

    def _problem(self, part: str, error: Exception) -> None:
        why = error.why if isinstance(error, UserError) else repr(error)
        if part not in self.problems:
            log.warning("problem", part=part, why=why)
            self.problems[part] = Problem(why=why, since=time.time())
        if isinstance(error, Unreachable) or part == "registry":
            with self._connecting:
                self._store = None  # where it moved to is asked anew

    def _solved(self, part: str) -> None:
        if self.problems.pop(part, None) is not None:
            log.info("problem over", part=part)


def told(problems: Mapping[str, Problem]) -> dict[str, Any]:
    """Problems as plain JSON."""
    return {part: asdict(problem) for part, problem in problems.items()}
