"""What a data card says of a record type: its fields in words, and the columns worth counting."""

import dataclasses
import inspect
import re
import typing
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insitu.randomness import rng_for
from insitu.records import Box, Image, Record

NAMES = ("identity", "subject")
WORDS = ("category", "tag", "word", "class_word")
_SHARED = {"split": "train, validation or test."}
"""What fields of many record types mean, where their class does not say."""
_PLAIN = {str: "text", int: "integer", float: "number", bool: "yes or no", Image: "picture"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column worth counting.

    Attributes:
        name: dotted, as a reader writes it: `findings.similarity`.
        parquet: the leaf of the file that holds it.
        words: it holds words or names rather than numbers.
        each: count how many there are in a row, whatever they are.
    """

    name: str
    parquet: str
    words: bool = False
    each: bool = False

    @property
    def shown(self) -> str:
        """Its name in a table."""
        return f"`{self.name}` in a row" if self.each else f"`{self.name}`"

    def values(self, row: Any) -> Iterable[Any]:
        """Its values in a row."""
        keys = self.name.split(".")
        if self.each:
            found = row.get(keys[0])
            return [] if found is None else [len(found)]
        return _walk(row, keys)


def columns(record_type: type[Record]) -> list[Column]:
    """Scores, how many there are of what a row lists, names and categories.

    Boxes, landmarks and embeddings are no scores.
    """
    return list(_columns(record_type, "", ""))


def describe(record_type: type[Record]) -> str:
    """Each field with its type and what its class says of it; then the classes of fields."""
    parts = []
    ahead: list[type[Any]] = [record_type]
    for owner in ahead:  # grows on the way
        parts.append(f"**{owner.__name__}.** {_first(owner)}")
        if owner is Box:
            continue
        said = _SHARED | dict(_documented(Record)) | dict(_documented(owner))
        lines = ["| field | type | |", "| --- | --- | --- |"]
        for name, annotation in _hints(owner):
            inner = _unwrapped(annotation)[-1]
            nested = dataclasses.is_dataclass(inner) and inner is not Image
            ahead += [inner] if nested and inner not in ahead else []
            words = said.get(name, _first(inner) if nested and inner is not Box else "")
            lines.append(f"| `{name}` | {_type(annotation)} | {words} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


class Numbers:
    """Mean and percentiles of what passes by: exact up to `SAMPLE` values, then of a sample."""

    SAMPLE = 10_000

    def __init__(self, name: str) -> None:
        self.name, self.count, self.sum = name, 0, 0.0
        self._sample: list[float] = []
        self._rng = rng_for("card", name)

    @property
    def sampled(self) -> bool:
        return self.count > self.SAMPLE

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            self.count += 1
            self.sum += value
            if len(self._sample) < self.SAMPLE:
                self._sample.append(value)
            elif (place := int(self._rng.integers(self.count))) < self.SAMPLE:
                self._sample[place] = value

    def line(self) -> list[str]:
        """Name, count, mean, percentiles 5, 50, 95."""
        low, middle, high = np.percentile(self._sample, (5, 50, 95))
        shown = [f"{value:.4g}" for value in (self.sum / self.count, low, middle, high)]
        return [self.name, f"{self.count:,}", *shown]


class Words:
    """How many different words pass by, counted up to `MOST`, and the most frequent of those."""

    MOST = 100_000

    def __init__(self, name: str) -> None:
        self.name, self.more = name, False
        self.counts: Counter[str] = Counter()

    def add(self, values: Iterable[str]) -> None:
        for value in values:
            if value in self.counts or len(self.counts) < self.MOST:
                self.counts[value] += 1
            else:
                self.more = True

    def line(self, shown: int) -> list[str]:
        """Name, how many, and the most frequent: of categories, not of names."""
        number = f"{'more than ' * self.more}{len(self.counts):,}"
        if self.name.strip("`").rpartition(".")[2] in NAMES:
            return [self.name, number, ""]
        best = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))[:shown]
        return [self.name, number, ", ".join(f"{word} {count:,}" for word, count in best)]


def _columns(owner: type[Any], name: str, parquet: str) -> Iterator[Column]:
    for field, annotation in _hints(owner):
        wrapped = _unwrapped(annotation)
        inner, listed = wrapped[-1], "list" in wrapped
        own = f"{name}{field}"
        leaf = f"{parquet}{field}" + ".list.element" * listed
        if inner in (Box, Image):
            continue
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            if listed and not name:
                yield Column(name=own, parquet=_any_leaf(inner, leaf), each=True)
            yield from _columns(inner, f"{own}.", f"{leaf}.")
        elif inner is float and not listed:
            yield Column(name=own, parquet=leaf)
        elif inner is str and not listed and field in (*NAMES, *WORDS):
            yield Column(name=own, parquet=leaf, words=True)


def _any_leaf(owner: type[Any], leaf: str) -> str:
    """Some leaf of a list's items that is no picture: it is read for how many there are."""
    plain = next(
        field for field, annotation in _hints(owner) if _unwrapped(annotation)[-1] in (str, float)
    )
    return f"{leaf}.{plain}"


def _first(owner: type[Any]) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(owner) or "").partition("\n\n")[0].split())


def _walk(value: Any, keys: Sequence[str]) -> Iterator[Any]:
    if value is None:
        return
    if isinstance(value, list):
        for item in value:
            yield from _walk(item, keys)
    elif keys:
        yield from _walk(value[keys[0]], keys[1:])
    else:
        yield value


def _hints(owner: type[Any]) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(owner)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(owner)]


def _unwrapped(annotation: Any) -> list[Any]:
    """`optional` and `list` for what an annotation is wrapped in, then what is within."""
    inner = [part for part in typing.get_args(annotation) if part not in (type(None), ...)]
    if not inner:
        return [annotation]
    kind = "list" if typing.get_origin(annotation) in (list, tuple) else "optional"
    return [kind, *_unwrapped(inner[0])]


def _type(annotation: Any) -> str:
    *wrapped, inner = _unwrapped(annotation)
    words = _PLAIN.get(inner) or inner.__name__
    for kind in reversed(wrapped):
        words = f"list of {words}" if kind == "list" else f"{words} or nothing"
    return words


def _documented(owner: type[Any]) -> Iterator[tuple[str, str]]:
    """Names and sentences of a docstring's `Attributes:`."""
    _, _, section = (inspect.getdoc(owner) or "").partition("Attributes:\n")
    for entry in re.split(r"\n(?= {4}\S)", section.partition("\n\n")[0]):
        names, colon, words = entry.strip().partition(": ")
        for name in names.split(",") if colon else ():
            yield name.strip(), " ".join(words.split())
