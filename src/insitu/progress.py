"""How far sampling is, told to whoever watches, who may also stop it.

A watcher is of the thread that paints: another one's sampling is not told to it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Watcher = Callable[[float], None]
"""Told the share of the steps that are done, 0..1. What it raises ends the sampling."""
_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Tell a watcher of all sampling within the block."""
    before = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(before)


def steps(items: Iterable[Item], *, total: int, first: int = 0) -> Iterator[Item]:
    """A loop's items, its watcher told before each and after the last.

    Args:
        total: of all loops that make one picture.
        first: how many of them came before this loop.
    """
    watcher = _watcher.get()
    if watcher is None:
        yield from items
        return
    done = first
    for item in items:
        watcher(done / total)
        yield item
        done += 1
    watcher(done / total)
