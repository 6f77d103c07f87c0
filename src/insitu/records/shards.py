"""Writing a folder of shards so that a killed run continues, and ends in the same bytes."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from insitu import __version__
from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.records import manifest as files
from insitu.records.schema import Row, RowFormat, rejected_format, row_format
from insitu.records.types import R, Rejected

# Bounds what is held in memory, in writing and in reading: 100 pictures of 1024x1024 are about
# 150 MB.
ROWS_PER_GROUP = 100

_SHARD_ID = b"insitu.shard"
_REJECTED_ROWS = b"insitu.rejected_rows"
_SET_ASIDE = b"insitu.set_aside"
T = TypeVar("T")


class ShardWriter(Generic[R]):
    """Writes records into a folder, shard by shard, and the manifest last.

    Creating it tidies the folder: it removes temporary files, and shards made from other inputs or
    of another record type. So one process creates it, and it may then be sent (pickled) to
    workers, each of which writes its own shards; nothing may write in the folder meanwhile.

    A shard is known by record type, schema, `input_digest` and index. Since a kept shard is not
    made again, the digest must cover everything that decides the rows: inputs, settings, code and
    how rows are cut into shards.
    """

    def __init__(self, folder: Path, record_type: type[R], input_digest: str) -> None:
        """Open a folder, new or unfinished or finished.

        Raises:
            UserError: the folder was finished from other inputs or as another record type.
        """
        self.folder = folder
        self.record_type = record_type
        self.input_digest = input_digest
        folder.mkdir(parents=True, exist_ok=True)
        files.remove_temporary(folder)
        done = {index for index in files.part_indices(folder) if self._done(index)}
        if (folder / files.MANIFEST).exists():
            finished = files.load_manifest(folder)
            self._check_same(finished)
            if {shard.file for shard in finished.shards} != set(map(files.part_name, done)):
                (folder / files.MANIFEST).unlink()  # shards were lost: unfinished again
        files.remove_orphans(folder, done)

    @property
    def finished(self) -> bool:
        """True when the manifest is there, so that nothing is left to do."""
        return (self.folder / files.MANIFEST).exists()

    def missing(self, count: int) -> list[int]:
        """Which of the shards 0 .. count - 1 are still to be written."""
        return [index for index in range(count) if not self._done(index)]

    @contextmanager
    def shard(self, index: int) -> Iterator["OpenShard[R]"]:
        """Write one shard; it appears whole when the block ends, and not at all if it raises."""
        if self.finished:
            raise UserError(
                f"Shard {index} was to be written into {self.folder}.",
                "That folder is finished.",
                "Write only the shards that `missing` names.",
            )
        shard = OpenShard(self.folder, self.record_type, index, self._shard_id(index))
        try:
            yield shard
            shard.publish()
        finally:
            shard.discard()

    def finish(self, count: int) -> files.Manifest:
        """Write the manifest over the shards 0 .. count - 1, unless it is already there.

        Raises:
            UserError: a shard is missing, or there are shards beyond `count`.
        """
        if self.finished and len((done := files.load_manifest(self.folder)).shards) == count:
            return done
        present = files.part_indices(self.folder)
        missing = self.missing(count)
        if missing or len(present) > count:
            problem = f"missing {missing}" if missing else f"also {present[count:]}"
            raise UserError(
                f"{self.folder} was to be finished with {count} shards.",
                f"Its shards do not match: {problem}.",
                "Write the missing shards; if the cut into shards changed, so must input_digest.",
            )
        by_filter: Counter[str] = Counter()
        shards = tuple(self._entry(index, by_filter) for index in range(count))
        result = files.Manifest(
            record_type=self.record_type.__name__,
            schema_fingerprint=row_format(self.record_type).fingerprint,
            input_digest=self.input_digest,
            insitu_version=__version__,
            rows=sum(shard.rows for shard in shards),
            rejected_rows=by_filter.total(),
            rejected_by_filter=dict(sorted(by_filter.items())),
            shards=shards,
            set_aside=tuple(row for index in range(count) for row in self._set_aside(index)),
        )
        files.save_manifest(self.folder, result)
        return result

    def _entry(self, index: int, by_filter: Counter[str]) -> files.Shard:
        part = self.folder / files.part_name(index)
        path = self.folder / files.rejected_name(index)
        rejected = None
        if path.exists():
            names = pq.read_table(path, columns=["rejected_by"], use_threads=False)
            by_filter.update(names.column("rejected_by").to_pylist())
            rejected = files.RejectedFile(
                file=path.name, rows=names.num_rows, sha256=file_digest(path)
            )
        return files.Shard(
            file=part.name,
            rows=pq.read_metadata(part).num_rows,
            sha256=file_digest(part),
            rejected=rejected,
        )

    def _set_aside(self, index: int) -> list[files.SetAside]:
        rows = json.loads(_footer(self.folder / files.part_name(index)).get(_SET_ASIDE, b"[]"))
        return [files.SetAside(id=name, error=error) for name, error in rows]

    def _shard_id(self, index: int) -> str:
        row = row_format(self.record_type)
        text = f"{row.name}\0{row.fingerprint}\0{self.input_digest}\0{index}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _done(self, index: int) -> bool:
        """True when a shard is whole: its kept rows are published after its rejected ones."""
        footer = _footer(self.folder / files.part_name(index))
        wanted = self._shard_id(index).encode()
        if footer.get(_SHARD_ID) != wanted:
            return False
        rejected = self.folder / files.rejected_name(index)
        if footer.get(_REJECTED_ROWS) == b"0":
            return not rejected.exists()
        return _footer(rejected).get(_SHARD_ID) == wanted

    def _check_same(self, finished: files.Manifest) -> None:
        row = row_format(self.record_type)
        if (finished.record_type, finished.schema_fingerprint) != (row.name, row.fingerprint):
            raise UserError(
                f"{row.name} records were to be written into {self.folder}.",
                f"It is a finished folder of {finished.record_type} records of another schema.",
                "Write into another folder, or delete this one.",
            )
        if finished.input_digest != self.input_digest:
            raise UserError(
                f"Records of input {self.input_digest} were to be written into {self.folder}.",
                f"It is finished, from input {finished.input_digest}.",
                "Write into another folder, or delete this one.",
            )


class OpenShard(Generic[R]):
    """A shard being written; made by `ShardWriter.shard`."""

    def __init__(self, folder: Path, record_type: type[R], index: int, shard_id: str) -> None:
        self._kept = _RowFile(folder / files.part_name(index), row_format(record_type))
        self._rejected = _RowFile(folder / files.rejected_name(index), rejected_format(record_type))
        self._shard_id = shard_id
        self._ids: set[str] = set()
        self._set_aside: list[tuple[str, str]] = []

    def keep(self, record: R) -> None:
        """Add a row.

        Raises:
            UserError: a value does not fit the schema, or the shard already has a row of that id.
        """
        self._add_id(record.id)
        self._kept.add(record)

    def reject(self, record: R, *, filter: str, score: float, reason: str) -> None:
        """Add a row that a filter refused, with the filter's name, score and reason.

        Raises:
            UserError: as `keep`; also when the score is not finite, for a failure is not a score.
        """
        self._add_id(record.id)
        self._rejected.add(Rejected(record=record, filter=filter, score=score, reason=reason))

    def set_aside(self, id: str, error: str) -> None:
        """Note an input row of which no record could be made; no filter judged it."""
        self._set_aside.append((id, error))

    @property
    def last_error(self) -> str | None:
        """Why the last row was set aside."""
        return self._set_aside[-1][1] if self._set_aside else None

    def publish(self) -> None:
        """Close both files and give them their names, the kept rows last."""
        footer = {_SHARD_ID: self._shard_id.encode()}
        if self._set_aside:
            footer[_SET_ASIDE] = json.dumps(self._set_aside).encode()
        if self._rejected.rows:
            self._rejected.publish(footer)
        else:
            self._rejected.target.unlink(missing_ok=True)
        self._kept.publish({**footer, _REJECTED_ROWS: str(self._rejected.rows).encode()})

    def discard(self) -> None:
        """Close and remove what is not published."""
        self._kept.discard()
        self._rejected.discard()

    def _add_id(self, name: str) -> None:
        if name in self._ids:
            raise UserError(
                f"Two rows with the id {name!r} were given for one shard.",
                "An id names one row, kept or rejected.",
                "Derive ids from what makes each row different.",
            )
        self._ids.add(name)


class _RowFile(Generic[T]):
    """A Parquet file under a temporary name, written in row groups, opened by its first row."""

    def __init__(self, target: Path, row: RowFormat[T]) -> None:
        self.target = target
        self.rows = 0
        self._row = row
        self._temporary = files.temporary_path(target.parent, target.name)
        self._writer: pq.ParquetWriter | None = None
        self._buffer: list[Row] = []

    def add(self, item: T) -> None:
        self._buffer.append(self._row.encode(item))
        self.rows += 1
        if len(self._buffer) == ROWS_PER_GROUP:
            self._flush()

    def publish(self, footer: dict[bytes, bytes]) -> None:
        if self._buffer or self._writer is None:
            self._flush()
        assert self._writer is not None
        self._writer.add_key_value_metadata(footer)
        self._writer.close()
        files.publish(self._temporary, self.target)

    def discard(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._writer is None:
            # Everything that decides bytes is pinned here rather than left to defaults that move.
            # Dictionaries and statistics are off: they would hold whole pictures.
            self._writer = pq.ParquetWriter(
                self._temporary,
                self._row.schema,
                version="2.6",
                data_page_version="1.0",
                compression="zstd",
                compression_level=3,
                use_dictionary=False,
                write_statistics=False,
            )
        table = pa.Table.from_pylist(self._buffer, schema=self._row.schema)
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._buffer = []


def _footer(path: Path) -> dict[bytes, bytes]:
    """A Parquet file's own metadata; empty when it is missing or not Parquet."""
    try:
        return pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid):
        return {}
