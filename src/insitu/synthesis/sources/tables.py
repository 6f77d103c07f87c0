"""Pictures in Parquet, one a row, streamed by the library `datasets`."""

import glob
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from insitu.errors import UserError
from insitu.params.sources import Columns
from insitu.synthesis.sources.opening import (
    Details,
    Entry,
    Location,
    Source,
    details_from,
    pick,
    printable,
    reaching,
)
from insitu.synthesis.sources.tars import split_from

SUFFIX = ".parquet"
ROWS_AT_ONCE = 16
"""Encoded pictures in memory; `datasets` would take a whole row group, which can be gigabytes."""


def source(location: Location, columns: Columns) -> Source:
    """Every row of every file, in order.

    Raises:
        UserError: a file is no Parquet, has no column of pictures, or lacks a named column.
    """
    names = [name for name in location.sizes if name.lower().endswith(SUFFIX)]
    picked = {name: _columns(location, name, columns) for name in names}

    def entries(*, contents: bool = True) -> Iterator[Entry]:
        for name, roles in picked.items():
            yield from _entries(location, name, roles, contents)

    return entries


def _entries(
    location: Location, name: str, roles: Mapping[str, str], contents: bool
) -> Iterator[Entry]:
    named = split_from(name)
    wanted = roles if contents else {k: v for k, v in roles.items() if k != "image"}
    for number, row in enumerate(_rows(location, name, wanted)):
        problem = None
        try:
            details = details_from(row, roles)
        except ValueError as error:
            details, problem = Details(), str(error)
        yield Entry(
            id=f"{printable(name)}#{number}",
            source=f"{location.url(name)}#{number}",
            details=replace(details, split=details.split or named),
            size=None,
            read=partial(_data, row.get(roles["image"])),
            problem=problem,
        )


def _rows(location: Location, name: str, roles: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if not roles:  # nothing but the number of rows is wanted
        with location.open(name) as file, reaching(location.url(name)):
            count = pq.read_metadata(file).num_rows
        yield from ({} for _ in range(count))
        return
    # Here, since importing it takes seconds. Its reader class opens the files given to it and asks
    # nobody else; load_dataset("parquet") would report the use to the hub.
    from datasets import ClassLabel  # type: ignore[import-untyped]
    from datasets.io.parquet import ParquetDatasetReader  # type: ignore[import-untyped]

    # It makes a lock file beside its cache, even if it caches nothing.
    with tempfile.TemporaryDirectory() as cache, reaching(location.url(name)):
        table = ParquetDatasetReader(
            glob.escape(location.full(name)),  # it takes every path for a pattern
            split="train",
            streaming=True,
            cache_dir=cache,
            columns=sorted(set(roles.values())),
            batch_size=ROWS_AT_ONCE,
        ).read()
        labels = {
            column: feature
            for column, feature in (table.features or {}).items()
            if isinstance(feature, ClassLabel)
        }
        for row in table.decode(False):
            for column, feature in labels.items():
                value = row[column]
                # -1 is how `datasets` writes that there is no label.
                row[column] = None if value in (None, -1) else feature.int2str(value)
            yield row


def _data(value: Any) -> bytes | None:
    # A path without bytes points to a file of whoever wrote the table, and is not followed.
    data = value.get("bytes") if isinstance(value, dict) else value
    return None if data is None else bytes(data)


def _columns(location: Location, name: str, columns: Columns) -> dict[str, str]:
    where = location.url(name)
    try:
        with location.open(name) as file, reaching(where, but=(pa.ArrowInvalid,)):
            schema = pq.read_schema(file)
    except pa.ArrowInvalid:
        raise UserError(
            f"The Parquet file {where} was given.",
            "It is cut off, damaged, or no Parquet.",
            "Copy or write it again, or remove it.",
        ) from None
    picked = pick(columns, schema.names, where, image=True)
    if "image" not in picked:
        raise UserError(
            f"The Parquet file {where} was given.",
            f"It has no column `image`, only {', '.join(sorted(schema.names)) or 'none'}.",
            "Name the column of pictures in `columns.image`.",
        )
    for role, column in picked.items():
        kind = schema.field(column).type
        if not (_holds_pictures(kind) if role == "image" else _holds_text(kind)):
            raise UserError(
                f"The column {column!r} of {where} was given for the {role} of pictures.",
                f"It holds {kind}, and the {role} is"
                f" {'binary or a struct with `bytes`' if role == 'image' else 'text or a number'}.",
                f"Name another column in `columns.{role}`, or write this one in another type.",
            )
    return picked


def _holds_pictures(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_pictures(kind.field(index).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _holds_text(kind.value_type)
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_null(kind)
    )
