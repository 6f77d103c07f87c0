"""Where rows come from: ids with digests of what stands behind them."""

import dataclasses
import hashlib
from typing import Any

from insitu.records import Image, Record


def source(record: Record) -> str:
    """`id@digest` of a row: the first 16 digits of SHA-256 over all of its fields."""
    total = hashlib.sha256()
    _update(total, record)
    return f"{record.id}@{total.hexdigest()[:16]}"


def _update(total: Any, value: Any) -> None:
    """Every field in its order; pictures by their bytes, the rest as Python writes it."""
    if isinstance(value, Image):
        total.update(value.data)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            total.update(f"{field.name}\0".encode())
            _update(total, getattr(value, field.name))
    elif isinstance(value, tuple | list):
        total.update(f"{len(value)}\0".encode())
        for item in value:
            _update(total, item)
    else:
        total.update(f"{value!r}\0".encode())
