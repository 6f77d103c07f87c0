"""Adapters at hand: packages on disk by digest, their weights in memory by last use."""

import os
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from insitu.errors import UserError
from insitu.methods import Method, find
from insitu.registry.package import Package
from insitu.registry.server import Unreachable
from insitu.registry.signature import verify
from insitu.registry.store import Entry, Store

MIB = 2**20
MOST_HELD = 10_000
"""Packages whose cards are kept in memory."""
log = structlog.get_logger("insitu.shelf")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A verified package with its method.

    Attributes:
        methods: by the number of steps that is asked for; None = the package's own.
    """

    package: Package
    methods: dict[int | None, Method] = field(default_factory=dict)

    def method(self, steps: int | None = None) -> Method:
        """With the settings of its training, or other sampling steps; the same one each time."""
        if steps not in self.methods:
            settings: dict[str, Any] = dict(self.package.card.settings["method"])
            if steps is not None:
                settings["steps"] = steps
            self.methods[steps] = find(self.package.card.method, settings)
        return self.methods[steps]


class Shelf:
    """Adapters by digest; whoever asks for one that is not there waits until it is.

    Attributes:
        hits, misses, evictions: of weights in memory, so far.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        folder: Path,
        *,
        mib: int,
        public_key: Path | None = None,
    ) -> None:
        """
        Args:
            store: where packages come from.
            folder: where they are kept.
            mib: that weights may take in memory.
            public_key: whose signature a package must have.
        """
        self.hits = self.misses = self.evictions = 0
        self._store, self._folder, self._most = store, folder, mib * MIB
        self._public_key = public_key
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._weights: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = threading.Lock()
        self._busy: dict[str, threading.Lock] = {}

    @property
    def used(self) -> int:
        """Bytes of the weights in memory."""
        with self._lock:
            return sum(map(_size, self._weights.values()))

    @property
    def count(self) -> int:
        """Of adapters whose weights are in memory."""
        return len(self._weights)

    def get(self, entry: Entry) -> Held:
        """A version's package, here and verified.

        Raises:
            Unreachable: it is not here, and cannot be had.
            UserError: it is damaged, or its weights alone are more than memory may hold.
        """
        with self._one_at_a_time(entry.digest):
            held = self._held.get(entry.digest)
            if held is not None:
                return held
            package = self.package(entry)
            size = package.weights.stat().st_size
            if size > self._most:
                raise UserError(
                    f"{entry.name}, version {entry.version} was asked for.",
                    f"Its weights take {size / MIB:.1f} MiB; {self._most / MIB:g} MiB are for"
                    " all adapters together.",
                    "Raise serving.adapters_mib.",
                )
            held = Held(package=package)
            with self._lock:
                self._held[entry.digest] = held
                while len(self._held) > MOST_HELD:
                    self._held.popitem(last=False)
            return held

    def weights(self, entry: Entry) -> dict[str, Tensor]:
        """A version's weights, read and verified where they are not in memory. For the thread that
        works with models: reading computes, too.

        Raises:
            UserError: as `get`.
        """
        with self._lock:
            known = self._weights.get(entry.digest)
            if known is not None:
                self._weights.move_to_end(entry.digest)
                self.hits += 1
                return known
            self.misses += 1
        # Read, not mapped into memory: a file that is cut short while it is used ends the process.
        try:
            found = load(self.package(entry).weights.read_bytes())
        except SafetensorError as error:
            raise UserError(
                f"{entry.name}, version {entry.version} was asked for.",
                f"Its weights are no safetensors, and no other format is ever loaded: {error}.",
                "Register an adapter that was saved as safetensors.",
            ) from None
        with self._lock:
            self._weights[entry.digest] = found
            while len(self._weights) > 1 and sum(map(_size, self._weights.values())) > self._most:
                self._weights.popitem(last=False)
                self.evictions += 1
        return found

    def package(self, entry: Entry) -> Package:
        """A version's package on disk, verified; fetched where it is not there or is damaged."""
        target = self._folder / entry.digest
        if target.is_dir():
            try:
                package = Package.open(target)
                if self._public_key is not None:
                    verify(package, self._public_key)
                if package.digest == entry.digest:
                    return package
            except UserError as error:  # whole where it came from, perhaps
                log.warning("package not in order", adapter=entry.name, why=error.why)
            shutil.rmtree(target, ignore_errors=True)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".fetching-") as temporary:
                package = self._store().fetch(entry, Path(temporary))
                os.replace(package.folder, target)
        except OSError as error:
            raise Unreachable(
                f"{entry.name}, version {entry.version} was to be kept in {self._folder}.",
                f"It cannot be: {error.strerror or error}.",
                "Make room there; what is loaded is served meanwhile.",
            ) from None
        return Package.open(target)

    def prune(self, digests: Collection[str]) -> int:
        """Remove packages but those of some digests; how many."""
        gone = [
            path
            for path in self._folder.glob("*")
            if path.is_dir() and path.name not in digests and not path.name.startswith(".")
        ]
        for path in gone:
            shutil.rmtree(path)
        return len(gone)

    @contextmanager
    def _one_at_a_time(self, digest: str) -> Iterator[None]:
        with self._lock:
            own = self._busy.setdefault(digest, threading.Lock())
        with own:
            yield


def _size(weights: dict[str, Tensor]) -> int:
    """In bytes."""
    return sum(tensor.nbytes for tensor in weights.values())
