"""Reading a finished folder of shards, checked before its first row is used."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.records.manifest import RejectedFile, Shard, load_manifest
from insitu.records.schema import RowFormat, rejected_format, row_format
from insitu.records.types import R, Rejected

T = TypeVar("T")


def read(
    folder: Path, record_type: type[R], *, shards: Collection[int] | None = None
) -> Iterator[R]:
    """The kept rows in the order they were written, one row group in memory at a time.

    Args:
        folder: a finished folder.
        record_type: the type it was written with.
        shards: indices to check and read, in this order; all when None.

    Raises:
        UserError: at the call, before any row: the manifest is missing (the folder is unfinished),
            type or schema differ, or a shard is missing or is not what was written.
    """
    chosen = _chosen(folder, record_type, shards)
    return _rows(_checked(folder, chosen), row_format(record_type))


def read_rejected(
    folder: Path, record_type: type[R], *, shards: Collection[int] | None = None
) -> Iterator[Rejected[R]]:
    """The rejected rows with filter, score and reason; arguments and errors as in `read`."""
    chosen = [shard.rejected for shard in _chosen(folder, record_type, shards) if shard.rejected]
    return _rows(_checked(folder, chosen), rejected_format(record_type))


def _chosen(
    folder: Path, record_type: type[R], indices: Collection[int] | None
) -> tuple[Shard, ...]:
    manifest = load_manifest(folder)
    row = row_format(record_type)
    if manifest.record_type != row.name:
        raise UserError(
            f"{row.name} records were to be read from {folder}.",
            f"It holds {manifest.record_type} records.",
            "Give the folder of the step that writes this record type.",
        )
    if manifest.schema_fingerprint != row.fingerprint:
        raise UserError(
            f"{row.name} records were to be read from {folder}.",
            "It was written with other fields or types than this version declares.",
            "Run the step that writes it again.",
        )
    if indices is None:
        return manifest.shards
    unknown = [index for index in indices if not 0 <= index < len(manifest.shards)]
    if unknown:
        raise UserError(
            f"Shards {unknown} were to be read from {folder}.",
            f"It has the shards 0 to {len(manifest.shards) - 1}.",
            "Ask only for those.",
        )
    return tuple(manifest.shards[index] for index in indices)


def _checked(folder: Path, chosen: Collection[Shard | RejectedFile]) -> list[Path]:
    for entry in chosen:
        path = folder / entry.file
        if not path.is_file():
            raise _damaged(path, "It is missing.")
        if file_digest(path) != entry.sha256:
            raise _damaged(path, "Its content is not what was written.")
    return [folder / entry.file for entry in chosen]


def _damaged(path: Path, why: str) -> UserError:
    return UserError(
        f"The manifest beside it lists {path}.",
        why,
        "Restore the folder (dvc checkout), or delete it and run the step that writes it again.",
    )


def _rows(paths: list[Path], row: RowFormat[T]) -> Iterator[T]:
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for values in file.read_row_group(group, use_threads=False).to_pylist():
                    yield row.decode(values)
