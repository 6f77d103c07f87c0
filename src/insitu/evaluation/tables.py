"""Scores of every picture, as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NAME = "scores.csv"
"""Of the table in a report's folder."""
NOT_SCORES = ("way", "asked", "variant", "group", "request", "seed")
"""Columns that say which picture it is; all others are metrics."""


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path, **only: str) -> dict[str, NDArray[np.float64]]:
    """Scores [groups, requests, seeds] by metric, of the rows whose columns have these values."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if all(r[k] == v for k, v in only.items())]
    shape = [1 + max(int(r.get(key, 0)) for r in rows) for key in ("group", "request", "seed")]
    names = [name for name in rows[0] if name not in NOT_SCORES]
    return {name: np.array([float(r[name]) for r in rows]).reshape(shape) for name in names}
