"""Pictures as files in folders, with or without a metadata file.

The library `datasets` reads such folders too (`imagefolder`), but loses pictures: version 5.2 loads
nothing but `test_1.png` from a folder that has one file of such a name, drops the pictures that a
metadata file does not list, gives no label where there is one class only, and turns a name like 007
in metadata.csv into 7. So its layouts are followed here, and files are read through fsspec.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from insitu.errors import UserError
from insitu.params.sources import Columns
from insitu.synthesis.sources.opening import (
    SPLITS,
    Details,
    Entry,
    Location,
    Source,
    details_from,
    pick,
    printable,
)

# Also kinds that Pillow may not read: set aside, they are seen; passed over, they are not.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)
METADATA = ("metadata.csv", "metadata.jsonl")
_FILE = "file_name"


def is_picture(name: str) -> bool:
    """True for a name that ends as pictures do, in either case."""
    return name.lower().endswith(SUFFIXES)


def has_classes(location: Location) -> bool:
    """True when every picture is in a class folder, and so could be read as imagefolder."""
    return all(len(_layout(name)[1]) == 1 for name in location.sizes if is_picture(name))


def source(location: Location, columns: Columns, *, classes: bool) -> Source:
    """Every picture at any depth, by name, with what metadata files say about it.

    Args:
        location: where they are.
        columns: the metadata's columns.
        classes: a picture's folder is its identity, unless the metadata names another.

    Raises:
        UserError: a metadata file is broken, names a picture that is not there, or one twice; with
            `classes`, a picture is deeper than one folder (within train, validation, test).
    """
    names = [name for name in location.sizes if is_picture(name)]
    known = _metadata(location, columns)
    facts = {name: _facts(location, name, known.get(name), classes) for name in names}

    def entries(*, contents: bool = True) -> Iterator[Entry]:
        for name, details in facts.items():
            yield Entry(
                id=printable(name),
                source=location.url(name),
                details=details,
                size=location.sizes[name],
                read=partial(location.read, name),
            )

    return entries


def _layout(name: str) -> tuple[str | None, list[str]]:
    """The split folder at the top, if there is one, and the folders below it."""
    folders = name.split("/")[:-1]
    if folders and folders[0].lower() in SPLITS:
        return folders[0], folders[1:]
    return None, folders


def _facts(location: Location, name: str, said: Details | None, classes: bool) -> Details:
    split, folders = _layout(name)
    said = said or Details()
    identity = said.identity
    if classes and identity is None:
        if len(folders) > 1:
            raise UserError(
                f"{location.url(name)} was given, to be read as imagefolder.",
                "It is in a folder within a folder, so either could be its identity.",
                "Keep one folder for each identity (also within train, validation and test), name"
                " the identity in a metadata file, or read it as `folder`, without identities.",
            )
        identity = printable(folders[0]) if folders else None
    return replace(said, identity=identity, split=said.split or split)


def _metadata(location: Location, columns: Columns) -> dict[str, Details]:
    found: dict[str, Details] = {}
    for path in location.sizes:
        folder, base = posixpath.split(path)
        if base == "metadata.parquet":
            raise _unusable(location.url(path), "Metadata in Parquet is not read")
        if base not in METADATA:
            continue
        where = location.url(path)
        rows = _rows(where, location.read(path), as_csv=base.endswith(".csv"))
        present = {key for row in rows for key in row}
        picked = pick(columns, present, where)
        for number, row in enumerate(rows, 1):
            file = row.get(_FILE)
            if not isinstance(file, str) or not file:
                raise _unusable(where, f"Row {number} has no `{_FILE}`")
            name = posixpath.normpath(posixpath.join(folder, file))
            if name not in location.sizes or not is_picture(name):
                raise _unusable(where, f"Row {number} names {file}, and no such picture is there")
            if name in found:
                raise _unusable(where, f"Row {number} names {file}, which has a row already")
            try:
                found[name] = details_from(row, picked)
            except ValueError as error:
                raise _unusable(where, f"Row {number}: {error}") from None
    if not found and any(getattr(columns, role) for role in ("identity", "caption", "licence")):
        pick(columns, (), location.given)  # named columns need a metadata file
    return found


def _rows(where: str, content: bytes, *, as_csv: bool) -> list[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]]
    try:
        text = content.decode("utf-8-sig")
        if as_csv:
            rows = [*csv.DictReader(io.StringIO(text, newline=""), strict=True)]
        else:
            rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise _unusable(where, f"It cannot be read: {error}") from None
    for number, row in enumerate(rows, 1):
        # A row with more values than the header has them under the key None.
        if not isinstance(row, dict) or None in row:
            raise _unusable(where, f"Row {number} does not fit the header, or is no JSON object")
    return rows


def _unusable(where: str, why: str) -> UserError:
    return UserError(
        f"The metadata file {where} was given.",
        f"{why}.",
        f"Write CSV or JSON lines in UTF-8, with `{_FILE}` relative to the file's folder, and one"
        " row for a picture at most.",
    )
