"""The manifest of a folder of shards: what it holds, written last, so that it says "finished"."""

import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from insitu.errors import UserError

MANIFEST = "manifest.json"
_SHARD = re.compile(r"part-(\d{5,})\.parquet")
_TEMPORARY = re.compile(r"\.(part-\d+\.parquet|rejected-\d+\.parquet|manifest\.json)\.\w+\.tmp")

# The pattern also keeps a manifest from naming a file outside its folder.
PartName = Annotated[str, Field(pattern=r"^part-\d{5,}\.parquet$")]
RejectedName = Annotated[str, Field(pattern=r"^rejected-\d{5,}\.parquet$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RejectedFile(_Strict):
    """The rejected rows of one shard."""

    file: RejectedName
    rows: Count
    sha256: Sha256


class Shard(_Strict):
    """One shard: its kept rows and, when a filter refused some, the file of those."""

    file: PartName
    rows: Count
    sha256: Sha256
    rejected: RejectedFile | None


class SetAside(_Strict):
    """An input row of which no record could be made, and what went wrong."""

    id: str
    error: str


class Manifest(_Strict):
    """What a finished folder holds. It has no times or hosts in it: equal rows, equal bytes.

    Attributes:
        record_type: name of the record class.
        schema_fingerprint: SHA-256 hex of its schema.
        input_digest: digest of everything the rows were made from.
        insitu_version: the version that wrote the folder.
        rows: kept rows in all shards.
        rejected_rows: rejected rows in all shards.
        rejected_by_filter: rejected rows for each filter, sorted by name.
        shards: the files, in the order of their index.
        set_aside: the input rows of which no record could be made, in the order of the shards.
    """

    record_type: str
    schema_fingerprint: Sha256
    input_digest: str
    insitu_version: str
    rows: Count
    rejected_rows: Count
    rejected_by_filter: dict[str, Count]
    shards: tuple[Shard, ...]
    set_aside: tuple[SetAside, ...] = ()


def part_name(index: int) -> str:
    """File name of a shard's kept rows."""
    return f"part-{index:05d}.parquet"


def rejected_name(index: int) -> str:
    """File name of a shard's rejected rows."""
    return f"rejected-{index:05d}.parquet"


def part_indices(folder: Path) -> list[int]:
    """Indices of the shards present in a folder, sorted."""
    matches = (_SHARD.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def load_manifest(folder: Path) -> Manifest:
    """Read a finished folder's manifest, without looking at its shards.

    Raises:
        UserError: there is no manifest, so the folder is unfinished; or it is damaged.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError:
        raise UserError(
            f"The folder {folder} was given.",
            f"It has no readable {MANIFEST}, so the step that writes it has not finished.",
            "Run that step (again); it continues where it stopped.",
        ) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"The folder {folder} was given.",
            f"Its {MANIFEST} is damaged or of another format: {key or 'content'}: {first['msg']}.",
            "Delete the folder and run the step that writes it again.",
        ) from None


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a folder's manifest in one step; from then on the folder counts as finished."""
    # Without an empty `set_aside`: folders in which nothing failed keep the bytes they always had.
    content = manifest.model_dump_json(indent=2, exclude_defaults=True).encode() + b"\n"
    temporary = temporary_path(folder, MANIFEST)
    try:
        temporary.write_bytes(content)
        publish(temporary, folder / MANIFEST)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(folder: Path, name: str) -> Path:
    """A new name in the same folder, where a file is written before it gets its own name."""
    return folder / f".{name}.{uuid.uuid4().hex}.tmp"


def publish(temporary: Path, target: Path) -> None:
    """Give a finished file its name in one step, its content on disk first."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)


def remove_temporary(folder: Path) -> None:
    """Remove what killed writers left behind; other files are not touched."""
    _remove(folder, lambda name: _TEMPORARY.fullmatch(name) is not None)


def remove_orphans(folder: Path, done: set[int]) -> None:
    """Remove the kept and rejected rows of every shard that is not in `done`."""
    names = {name(index) for index in done for name in (part_name, rejected_name)}
    _remove(
        folder,
        lambda name: (
            re.fullmatch(r"(part|rejected)-\d{5,}\.parquet", name) is not None and name not in names
        ),
    )


def _remove(folder: Path, chosen: Callable[[str], bool]) -> None:
    for path in list(folder.iterdir()):
        if chosen(path.name):
            path.unlink()
