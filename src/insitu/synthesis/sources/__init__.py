"""Pictures from anywhere become records; what is of no use is set aside with its reason.

`pictures` checks the source, then gives one picture at a time, in the order of names, so that a
stage can write shards of any size. Only that picture is decoded at any time.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from insitu.errors import UserError
from insitu.params.sources import Format, Pictures
from insitu.randomness import rng_for
from insitu.records import Image, Rejected
from insitu.records.pictures import Picture, placeholder
from insitu.synthesis.sources import folders, tables, tars
from insitu.synthesis.sources.decoding import MAX_PIXELS, TooLargeError, UnreadableError, decode
from insitu.synthesis.sources.duplicates import HASH_BITS, Match, Seen
from insitu.synthesis.sources.opening import SPLITS, Entry, Location, Source, locate

MAX_BYTES = 2**28
"""Of one picture's file, 256 MB: what is larger is hardly a photo, and is not loaded."""

SetAside = Rejected[Picture]
"""A picture, the filter that refused it, what the filter measured, and why.

Filters, in their order, and their scores: `unreadable` and `file too large`, the file's bytes;
`too large`, its pixels; `too small`, pixels of the shorter side; `duplicate`, 0; `near-duplicate`,
how many bits of its hash differ.
"""


def pictures(settings: Pictures) -> Iterator[Picture | SetAside]:
    """Every picture of a source, kept or set aside, in the order of names.

    Ids are paths within the source, so neither they nor the split depend on where it lies.

    Raises:
        UserError: at the call: nothing is at the path, its format cannot be told, it holds no
            picture, lacks a column, or has no split where `given` asks for one, or pictures of one
            identity in two. Later: a file is cut off, or the disk or network fails.
    """
    location = locate(settings.path)
    source = _source(location, settings)
    if next(source(contents=False), None) is None:
        raise _nothing(location, "with a picture in it")
    if settings.split == "given":
        _check_split(source, settings.path)
    return _judge(islice(source(), settings.limit), settings)


def split_of(name: str, *, validation: float, test: float) -> str:
    """train, validation or test, by a hash of the name alone: other names never move it.

    Args:
        name: of the identity, or of the picture if it has none.
        validation: share of names for validation.
        test: share of names for testing; growing it moves names out of the others only.
    """
    draw = rng_for("split", name).random()
    if draw < test:
        return "test"
    return "validation" if draw < test + validation else "train"


def _source(location: Location, settings: Pictures) -> Source:
    kind = settings.format if settings.format != "auto" else _told_format(location)
    if settings.columns.image is not None and kind != "parquet":
        raise UserError(
            f"The column {settings.columns.image!r} was given for the image of pictures.",
            f"{location.given} is read as {kind}, where pictures are files.",
            "Remove `columns.image`.",
        )
    match kind:
        case "webdataset":
            _require(location, tars.SUFFIX)
            return tars.source(location, settings.columns)
        case "parquet":
            _require(location, tables.SUFFIX)
            return tables.source(location, settings.columns)
        case _:
            _require(location, *folders.SUFFIXES)
            return folders.source(location, settings.columns, classes=kind == "imagefolder")


def _told_format(location: Location) -> Format:
    names = [name.lower() for name in location.sizes]
    kinds: dict[Format, bool] = {
        "webdataset": any(name.endswith(tars.SUFFIX) for name in names),
        "parquet": any(name.endswith(tables.SUFFIX) for name in names),
        "folder": any(folders.is_picture(name) for name in names),
    }
    found = [kind for kind, there in kinds.items() if there]
    if len(found) > 1:
        raise UserError(
            f"{location.given} was given as a source of pictures, its format auto.",
            f"It holds files of several formats: {', '.join(found)}.",
            "Name one in `format`, or give a folder or file of one format.",
        )
    if not found:
        raise _nothing(location, "that is a picture, .tar or .parquet")
    if found == ["folder"] and folders.has_classes(location):
        return "imagefolder"
    return found[0]


def _require(location: Location, *suffixes: str) -> None:
    if not any(name.lower().endswith(suffixes) for name in location.sizes):
        raise _nothing(location, f"that ends with {', '.join(suffixes)}")


def _nothing(location: Location, what: str) -> UserError:
    return UserError(
        f"{location.given} was given as a source of pictures.",
        f"It holds no file {what}; hidden files do not count.",
        "Put pictures there, or correct the path or `format`.",
    )


def _check_split(source: Source, path: str) -> None:
    where: dict[str, str] = {}
    for entry in source(contents=False):
        if entry.problem is not None:
            continue  # it will be set aside, whatever its split
        said = entry.details.split
        split = SPLITS.get(said.lower()) if said is not None else None
        if split is None:
            raise UserError(
                f"The split of {path} was to be taken as given.",
                f"{entry.source} is in none of train, validation and test"
                + (f", but in {said!r}." if said is not None else "."),
                "Give every picture a split (folder, file name or column), or set `split` to"
                " identity.",
            )
        identity = entry.details.identity
        if identity is not None and where.setdefault(identity, split) != split:
            raise UserError(
                f"The split of {path} was to be taken as given.",
                f"It has pictures of {identity!r} in {where[identity]} and in {split}, so what is"
                " measured there would be known from training.",
                "Move each identity into one split, or set `split` to identity.",
            )


def _judge(entries: Iterator[Entry], settings: Pictures) -> Iterator[Picture | SetAside]:
    seen = Seen(settings.near_duplicate_bits)
    for entry in entries:
        yield _judged(entry, settings, seen)


@dataclass(frozen=True, kw_only=True)
class _Builder:
    """Makes the records of one entry, which differ in their image and verdict only."""

    entry: Entry
    settings: Pictures
    sha256: str

    def picture(self, image: Image, size: tuple[int, int]) -> Picture:
        details = self.entry.details
        return Picture(
            id=self.entry.id,
            image=image,
            width=size[0],
            height=size[1],
            identity=details.identity,
            caption=details.caption,
            split=self._split(),
            source=self.entry.source,
            sha256=self.sha256,
            licence=details.licence or self.settings.licence,
        )

    def undecoded(
        self, filter: str, score: int, reason: str, size: tuple[int, int] | None = None
    ) -> SetAside:
        record = self.picture(placeholder(), size or (0, 0))
        return SetAside(record=record, filter=filter, score=float(score), reason=reason)

    def _split(self) -> str:
        details, settings = self.entry.details, self.settings
        if settings.split == "given" and self.entry.problem is None:
            assert details.split is not None  # checked before the first picture
            return SPLITS[details.split.lower()]
        return split_of(
            details.identity or self.entry.id, validation=settings.validation, test=settings.test
        )


def _judged(entry: Entry, settings: Pictures, seen: Seen) -> Picture | SetAside:
    data = entry.read() if entry.size is None or entry.size <= MAX_BYTES else None
    size = entry.size if data is None else len(data)
    builder = _Builder(
        entry=entry,
        settings=settings,
        sha256="" if data is None else hashlib.sha256(data).hexdigest(),
    )
    if size is not None and size > MAX_BYTES:
        reason = f"its file has {size} bytes, and more than {MAX_BYTES} are not loaded"
        return builder.undecoded("file too large", size, reason)
    if data is None:
        return builder.undecoded("unreadable", 0, "there are no bytes of a picture")
    if entry.problem is not None:
        return builder.undecoded("unreadable", len(data), entry.problem)
    try:
        decoded = decode(data)
    except UnreadableError as error:
        return builder.undecoded("unreadable", len(data), str(error))
    except TooLargeError as error:
        extent = f"{error.size[0]} x {error.size[1]}" if error.size else f"over {error.pixels}"
        reason = f"it has {extent} pixels, and more than {MAX_PIXELS} are not decoded"
        return builder.undecoded("too large", error.pixels, reason, error.size)
    picture = builder.picture(decoded.image, decoded.pixels.size)
    side = min(decoded.pixels.size)
    if side < settings.min_side:
        return SetAside(
            record=picture,
            filter="too small",
            score=float(side),
            reason=f"its shorter side has {side} pixels, under {settings.min_side}",
        )
    match = seen.repeats(entry.id, picture.identity, sha256=picture.sha256, pixels=decoded.pixels)
    return picture if match is None else _repeated(picture, match)


def _repeated(picture: Picture, match: Match) -> SetAside:
    if match.bits is None:
        reason = f"its file is equal to that of {match.id}"
    else:
        reason = f"{match.bits} of {HASH_BITS} bits of its hash differ from that of {match.id}"
    if match.identity != picture.identity:
        reason += (
            f"; that one shows {match.identity or 'no named identity'},"
            f" this one {picture.identity or 'no named identity'}"
        )
    return SetAside(
        record=picture,
        filter="duplicate" if match.bits is None else "near-duplicate",
        score=float(match.bits or 0),
        reason=reason,
    )
