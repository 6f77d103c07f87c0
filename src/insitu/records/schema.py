"""Record types <-> Arrow schemas, derived from the annotations.

The schema also carries the `huggingface` metadata, so that Hugging Face `datasets` opens a shard
with its pictures decoded. `datasets` does so only where Arrow's types equal its own, which are
nullable at every level; so Arrow's are too, and a None that the annotation does not allow is
refused in `encode` instead.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow as pa

from insitu.errors import UserError
from insitu.records.types import Image, R, Record, Rejected

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RowFormat(Generic[T]):
    """How one type of object becomes an Arrow row and back.

    Attributes:
        name: the record type's name.
        schema: the Arrow schema, with `huggingface` metadata.
        fingerprint: SHA-256 hex of the names, types and what may be None.
        encode: object -> row; refuses (UserError) a value that its annotation does not allow.
        decode: row -> object.
    """

    name: str
    schema: pa.Schema
    fingerprint: str
    encode: Callable[[T], Row]
    decode: Callable[[Row], T]


@dataclass(frozen=True, kw_only=True)
class _Codec:
    """How one value is stored. `encode` is told where the value stands, for its error."""

    kind: str
    arrow: pa.DataType
    feature: Any
    encode: Callable[[Any, str], Any]
    decode: Callable[[Any], Any]


def row_format(record_type: type[R]) -> RowFormat[R]:
    """The format of a record type's rows.

    Raises:
        TypeError: a field's annotation has no schema, or the type is no frozen dataclass.
    """
    codecs = _field_codecs(record_type)

    def encode(record: R) -> Row:
        return _encode_record(record, record_type, codecs)

    def decode(row: Row) -> R:
        return record_type(**{name: codec.decode(row[name]) for name, codec in codecs.items()})

    return _row_format(record_type.__name__, codecs, encode, decode)


def rejected_format(record_type: type[R]) -> RowFormat[Rejected[R]]:
    """The format of a record type's rejected rows: its own columns and three of the filter's."""
    codecs = _field_codecs(record_type)
    verdict = {
        "rejected_by": _PLAIN[str],
        "rejected_score": _PLAIN[float],
        "rejected_reason": _PLAIN[str],
    }
    if not codecs.keys().isdisjoint(verdict):
        raise TypeError(f"{record_type.__name__} declares one of the columns {sorted(verdict)}")
    kept = row_format(record_type)

    def encode(rejected: Rejected[R]) -> Row:
        row = kept.encode(rejected.record)
        values = (rejected.filter, rejected.score, rejected.reason)
        for (name, codec), value in zip(verdict.items(), values, strict=True):
            row[name] = codec.encode(value, f"{name} of the rejected record {rejected.id!r}")
        return row

    def decode(row: Row) -> Rejected[R]:
        return Rejected(
            record=kept.decode(row),
            filter=row["rejected_by"],
            score=row["rejected_score"],
            reason=row["rejected_reason"],
        )

    return _row_format(record_type.__name__, {**codecs, **verdict}, encode, decode)


def _row_format(
    name: str,
    codecs: Mapping[str, _Codec],
    encode: Callable[[T], Row],
    decode: Callable[[Row], T],
) -> RowFormat[T]:
    features = {field: codec.feature for field, codec in codecs.items()}
    return RowFormat(
        name=name,
        schema=pa.schema(
            [(field, codec.arrow) for field, codec in codecs.items()],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        ),
        fingerprint=hashlib.sha256(_struct_kind(name, codecs).encode()).hexdigest(),
        encode=encode,
        decode=decode,
    )


def _encode_record(record: Record, record_type: type[Record], codecs: Mapping[str, _Codec]) -> Row:
    if type(record) is not record_type:
        raise _refused("a row", record, f"a {record_type.__name__}")
    where = f"{record_type.__name__} {record.id!r}"
    if record.id == "":
        raise _refused(f"`id` of a {record_type.__name__}", record.id, "a name that is not empty")
    return {
        name: codec.encode(getattr(record, name), f"`{name}` of {where}")
        for name, codec in codecs.items()
    }


def _field_codecs(owner: type) -> dict[str, _Codec]:
    if not dataclasses.is_dataclass(owner):
        raise TypeError(f"{owner.__name__} is no dataclass")
    if not owner.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise TypeError(f"{owner.__name__} is not frozen")
    hints = typing.get_type_hints(owner)
    return {
        field.name: _codec(hints[field.name], f"{owner.__name__}.{field.name}")
        for field in dataclasses.fields(owner)
    }


def _codec(annotation: Any, where: str) -> _Codec:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _struct(annotation)
    if origin is list and len(arguments) == 1:
        return _sequence(list, _codec(arguments[0], where))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return _sequence(tuple, _codec(arguments[0], where))
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2:
        present = [argument for argument in arguments if argument is not type(None)]
        if len(present) == 1:
            return _optional(_codec(present[0], where))
    raise TypeError(f"{where}: {annotation!r} has no schema; see Record for what a field may be")


def _struct(owner: type) -> _Codec:
    codecs = _field_codecs(owner)

    def encode(value: Any, where: str) -> Row:
        if type(value) is not owner:
            raise _refused(where, value, f"a {owner.__name__}")
        return {name: c.encode(getattr(value, name), where) for name, c in codecs.items()}

    def decode(row: Row) -> Any:
        return owner(**{name: codec.decode(row[name]) for name, codec in codecs.items()})

    return _Codec(
        kind=_struct_kind(owner.__name__, codecs),
        arrow=pa.struct([(name, codec.arrow) for name, codec in codecs.items()]),
        feature={name: codec.feature for name, codec in codecs.items()},
        encode=encode,
        decode=decode,
    )


def _struct_kind(name: str, codecs: Mapping[str, _Codec]) -> str:
    return f"{name}({', '.join(f'{field}: {codec.kind}' for field, codec in codecs.items())})"


def _sequence(container: type[list[Any]] | type[tuple[Any, ...]], element: _Codec) -> _Codec:
    def encode(value: Any, where: str) -> list[Any]:
        if type(value) is not container:
            raise _refused(where, value, f"a {container.__name__}")
        return [element.encode(item, f"item {i} of {where}") for i, item in enumerate(value)]

    return _Codec(
        kind=f"list[{element.kind}]",
        arrow=pa.list_(element.arrow),
        # A JSON list, not {"_type": "List"}: versions of `datasets` before 4 read it as well.
        feature=[element.feature],
        encode=encode,
        decode=lambda items: container(element.decode(item) for item in items),
    )


def _optional(present: _Codec) -> _Codec:
    return _Codec(
        kind=f"{present.kind} | None",
        arrow=present.arrow,
        feature=present.feature,
        encode=lambda value, where: None if value is None else present.encode(value, where),
        decode=lambda value: None if value is None else present.decode(value),
    )


def _encode_text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _refused(where, value, "a str")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _refused(where, value, "text that UTF-8 can hold") from None
    return value


def _encode_int(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise _refused(where, value, "an int of 64 bits")
    return value


def _encode_float(value: Any, where: str) -> float:
    # An int is refused above 2^53, where a float would no longer hold it.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(where, value, "a float")
    if (isinstance(value, int) and abs(value) > 2**53) or not math.isfinite(value):
        raise _refused(where, value, "a finite float; a failure is not a number")
    return float(value)


def _encode_bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _refused(where, value, "a bool")
    return value


def _encode_image(value: Any, where: str) -> Row:
    if not isinstance(value, Image):
        raise _refused(where, value, "an Image")
    return {"bytes": value.data, "path": None}


def _same(value: Any) -> Any:
    return value


def _plain(kind: str, arrow: pa.DataType, encode: Callable[[Any, str], Any]) -> _Codec:
    feature = {"dtype": kind, "_type": "Value"}
    return _Codec(kind=kind, arrow=arrow, feature=feature, encode=encode, decode=_same)


_PLAIN: Mapping[Any, _Codec] = {
    str: _plain("string", pa.string(), _encode_text),
    int: _plain("int64", pa.int64(), _encode_int),
    float: _plain("float64", pa.float64(), _encode_float),
    bool: _plain("bool", pa.bool_(), _encode_bool),
    Image: _Codec(
        kind="image",
        arrow=pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        feature={"_type": "Image"},
        encode=_encode_image,
        decode=lambda row: Image(row["bytes"]),
    ),
}


def _refused(where: str, value: Any, rule: str) -> UserError:
    shown = repr(value)
    return UserError(
        f"{where[:1].upper()}{where[1:]} is {shown if len(shown) <= 80 else shown[:77] + '...'}.",
        f"It must be {rule}.",
        "Convert or correct the value where the record is made.",
    )
