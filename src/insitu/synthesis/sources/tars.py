"""Pictures in tar files as WebDataset writes them: 0.jpg, 0.txt, 0.json, 1.png, ...

The library `datasets` reads them too (`webdataset`), but version 5.2 stops everything at one broken
JSON, drops `0.JPG` and `photo.v1.jpg`, needs the same kinds of files in all samples, and takes a
file of the working folder in place of a member of the same name. So tarfile reads the members.
"""

import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from insitu.errors import UserError
from insitu.params.sources import Columns
from insitu.synthesis.sources.folders import is_picture
from insitu.synthesis.sources.opening import (
    SPLITS,
    Details,
    Entry,
    Location,
    Source,
    details_from,
    pick,
    printable,
    reaching,
)

SUFFIX = ".tar"
MAX_TEXT_BYTES = 2**20
"""Of a caption or a JSON file; a longer one is taken for a mistake."""
_BLOCK = 512


@dataclass(frozen=True)
class _Said:
    details: Details
    problem: str | None


def split_from(name: str) -> str | None:
    """The split that a path names in a word of its own: `train-00000.tar`, `data/test/0.tar`."""
    words = re.split(r"[-._ 0-9/]+", name.lower())
    return next((word for word in words if word in SPLITS), None)


def source(location: Location, columns: Columns) -> Source:
    """Every picture of every tar, in the order of files and members.

    A sample's caption is its .txt or is in its .json; identity, licence and split are in its .json,
    or the identity is its .cls.
    """
    names = [name for name in location.sizes if name.lower().endswith(SUFFIX)]

    def entries(*, contents: bool = True) -> Iterator[Entry]:
        for name in names:
            with location.open(name) as file:
                yield from _entries(location, name, file, columns)

    return entries


def _entries(location: Location, name: str, file: Any, columns: Columns) -> Iterator[Entry]:
    times: Counter[str] = Counter()
    with _opened(location, name, file) as tar:
        members = _members(location, name, file, tar)
        for _, sample in itertools.groupby(members, key=lambda member: _key(member.name)):
            group = list(sample)
            pictures = [member for member in group if is_picture(member.name)]
            if not pictures:
                continue
            said = _said(location.url(name), tar, group, columns)
            details = replace(said.details, split=said.details.split or split_from(name))
            for member in pictures:
                times[member.name] += 1
                # A tar may hold a name twice; an id may not.
                again = "" if times[member.name] == 1 else f"#{times[member.name]}"
                label = printable(member.name) + again
                yield Entry(
                    id=f"{printable(name)}#{label}",
                    source=f"{location.url(name)}#{label}",
                    details=details,
                    size=member.size,
                    read=partial(_read, location.url(name), tar, member),
                    problem=said.problem,
                )


def _opened(location: Location, name: str, file: Any) -> tarfile.TarFile:
    where = location.url(name)
    try:
        with reaching(where, but=(tarfile.TarError,)):
            return tarfile.open(fileobj=file, mode="r:")
    except tarfile.TarError:
        raise _broken(where, "It is no uncompressed tar file") from None


def _members(
    location: Location, name: str, file: Any, tar: tarfile.TarFile
) -> Iterator[tarfile.TarInfo]:
    where = location.url(name)
    try:
        with reaching(where, but=(tarfile.TarError,)):
            for member in tar:
                if member.isfile():
                    yield member
            # tarfile takes a damaged header for the end; the real one is a block of zeros.
            file.seek(tar.offset)
            end = file.read(_BLOCK)
    except tarfile.TarError:
        end = b""
    if end != bytes(_BLOCK):
        raise _broken(where, "It is cut off or damaged")


def _key(path: str) -> str:
    """WebDataset's key: the path up to the first dot of its last part."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _said(
    where: str, tar: tarfile.TarFile, group: list[tarfile.TarInfo], columns: Columns
) -> _Said:
    texts: dict[str, str] = {}
    for member in group:
        ending = member.name.lower().rpartition(".")[2]
        if ending in ("txt", "json", "cls"):
            base = printable(member.name)
            if member.size > MAX_TEXT_BYTES:
                return _Said(Details(), f"its {base} is longer than {MAX_TEXT_BYTES} bytes")
            try:
                texts[ending] = _read(where, tar, member).decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                return _Said(Details(), f"its {base} is not in UTF-8")
    try:
        content = json.loads(texts.get("json", "{}"))
    except (ValueError, RecursionError):
        return _Said(Details(), "its .json is not JSON")
    if not isinstance(content, dict):
        return _Said(Details(), "its .json is no JSON object")
    try:
        details = details_from(content, pick(columns, content.keys(), f"A sample of {where}"))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        return _Said(Details(), f"in its .json, {error}")
    return _Said(
        replace(
            details,
            caption=details.caption or texts.get("txt") or None,
            identity=details.identity or texts.get("cls") or None,
        ),
        None,
    )


def _read(where: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    with reaching(f"{where}#{printable(member.name)}"):
        file = tar.extractfile(member)
        assert file is not None  # only regular files are listed
        return file.read()


def _broken(where: str, why: str) -> UserError:
    return UserError(
        f"The tar file {where} was given.",
        f"{why}, so that pictures in it cannot be found.",
        "Copy or write it again, uncompressed, or remove it.",
    )
