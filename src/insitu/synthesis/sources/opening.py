"""A place with files, here or behind a url, and what is known of a picture before it is decoded.

Everything is read through fsspec. s3:// takes its endpoint and credentials from the usual variables
(AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_PROFILE, ...).
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import fsspec  # type: ignore[import-untyped]

from insitu.errors import UserError
from insitu.params.sources import Columns

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image",),
    "identity": ("identity", "label"),
    "caption": ("caption", "text"),
    "licence": ("licence", "license"),
    "split": ("split",),
}
SPLITS: Mapping[str, str] = {
    # The words by which `datasets` knows them.
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True, kw_only=True)
class Details:
    """What a source says about a picture, in its own words."""

    identity: str | None = None
    caption: str | None = None
    licence: str | None = None
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A picture that is there, not yet read.

    Attributes:
        id: unique in its source, and the same wherever that lies.
        source: path or url of its file, `file#member` or `file#row`.
        details: what its source says about it.
        size: bytes, if known before reading.
        read: gives its bytes, None if there are none; to be called before the next entry is asked
            for, and not on an entry that was listed without contents.
        problem: why what its source says about it could not be read.
    """

    id: str
    source: str
    details: Details
    size: int | None
    read: Callable[[], bytes | None]
    problem: str | None = None


class Source(Protocol):
    def __call__(self, *, contents: bool = True) -> Iterator[Entry]:
        """Every picture, in the same order each time; without `contents` nothing large is read.

        Raises:
            UserError: a file is broken or out of reach.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Location:
    """A folder of files, or one file.

    Attributes:
        given: as the user wrote it.
        base: the folder's path or url in the user's writing.
        root: the same as the file system has it.
        sizes: bytes of every file, by its path relative to the folder, sorted by that.
    """

    given: str
    base: str
    root: str
    fs: Any
    sizes: Mapping[str, int]

    def url(self, name: str) -> str:
        """Where a file is, for a reader."""
        return f"{self.base}/{printable(name)}"

    def full(self, name: str) -> str:
        """Where a file is, for a library that opens paths and urls by itself."""
        return str(self.fs.unstrip_protocol(self._path(name)))

    @contextmanager
    def open(self, name: str) -> Iterator[Any]:
        """A file's bytes, seekable."""
        with reaching(self.url(name)):
            file = self.fs.open(self._path(name), "rb")
        with file:
            yield file

    def read(self, name: str) -> bytes:
        """A whole file."""
        with reaching(self.url(name)):
            return bytes(self.fs.cat_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"


def locate(given: str) -> Location:
    """List what is at a path or url, at any depth; hidden files and folders are passed over.

    Raises:
        UserError: nothing is there, or it is out of reach.
    """
    with reaching(given):
        fs, root = fsspec.url_to_fs(given)
        fs.invalidate_cache()  # a process that lives long has listed it before
        there, alone = fs.exists(root), fs.isfile(root)
        found = fs.find(root, detail=True) if there else {}
    if not there:
        raise UserError(
            f"{given} was given as a source of pictures.",
            "There is nothing at that place.",
            "Check the path, the bucket, and for S3 also AWS_ENDPOINT_URL.",
        )
    base = given.rstrip("/")
    if alone:
        root, base = root.rpartition("/")[0], base.rpartition("/")[0] or "."
    names = {path[len(root) :].lstrip("/"): info["size"] or 0 for path, info in found.items()}
    shown = sorted(name for name in names if not _hidden(name))
    return Location(
        given=given, base=base, root=root, fs=fs, sizes={name: names[name] for name in shown}
    )


@contextmanager
def reaching(where: str, *, but: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn whatever a file system raises into a refusal, `but` what the caller explains itself.

    A disk or network that fails says nothing about a picture, so none is set aside for it.
    """
    try:
        yield
    except Exception as error:  # each file system raises its own kinds
        if isinstance(error, (UserError, *but)):
            raise
        raise UserError(
            f"{where} was to be read.",
            f"That failed: {type(error).__name__}: {error}.",
            "Check the path, the connection, the credentials and your rights, and run it again.",
        ) from error


def pick(
    columns: Columns, present: Collection[str], where: str, *, image: bool = False
) -> dict[str, str]:
    """Which column holds what: "identity" -> the column's name, for those that there are.

    Raises:
        UserError: a column that the settings name is not there.
    """
    found = {}
    for role, usual in USUAL_NAMES.items():
        named: str | None = getattr(columns, role)
        if role == "image" and not image:
            continue
        if named is not None and named not in present:
            raise UserError(
                f"The column {named!r} was given for the {role} of pictures.",
                f"{where} has no such column, only {', '.join(sorted(present)) or 'none'}.",
                f"Correct `columns.{role}`, or remove it if there is no {role}.",
            )
        name = named or next((name for name in usual if name in present), None)
        if name is not None:
            found[role] = name
    return found


def details_from(row: Mapping[str, Any], picked: Mapping[str, str]) -> Details:
    """What a row says about its picture.

    Raises:
        ValueError: a value is no text or number.
    """
    return Details(
        **{role: _text(row.get(name), name) for role, name in picked.items() if role != "image"}
    )


def printable(name: str) -> str:
    """A file's name as text, also where it is not UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _text(value: Any, name: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str | int | float):
        raise ValueError(f"`{name}` is neither text nor a number")
    try:
        return str(value).encode().decode()
    except UnicodeEncodeError:
        raise ValueError(f"`{name}` is text that UTF-8 cannot hold") from None


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
