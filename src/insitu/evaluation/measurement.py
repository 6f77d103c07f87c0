"""What came of an adapter on a benchmark, picture by picture: what the gate compares.

Two adapters are compared on what both were asked: measurements of other benchmarks, or by other
judges, have another digest and never meet.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from insitu.errors import UserError

Rows = tuple[tuple[float, ...], ...]


class Measured(BaseModel):
    """One metric, by case and seed, [K, R]; what could not be measured has the worst value.

    Attributes:
        higher_is_better: which way is good.
        adapter: of the pictures that the adapter painted.
        base: of those that its base painted, with nothing learned, from the same seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    higher_is_better: bool
    adapter: Rows
    base: Rows

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        shapes = {tuple(map(len, rows)) for rows in (self.adapter, self.base)}
        if len(shapes) != 1 or len(set(shapes.pop())) != 1:
            raise ValueError("cases and seeds of adapter and base do not pair")
        return self

    def values(self, way: str) -> NDArray[np.float64]:
        """Of `adapter` or `base`, [1, K, R], and more is better."""
        found = np.array(getattr(self, way), np.float64)[None]
        return found if self.higher_is_better else -found


class Measurement(BaseModel):
    """All metrics of an adapter on a benchmark.

    Attributes:
        benchmark: everything that decides what was asked for and how it was judged.
        metrics: by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    benchmark: dict[str, Any]
    metrics: dict[str, Measured]

    @property
    def digest(self) -> str:
        """Of the benchmark."""
        return benchmark_digest(self.benchmark)

    @classmethod
    def read(cls, text: str, where: str) -> Self:
        """Of its JSON.

        Raises:
            UserError: it is none.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UserError(
                f"The measurement {where} was read.",
                f"It is none of this version: {error.errors(include_url=False)[0]['msg']}.",
                "Measure the adapter again.",
            ) from None


def measured(
    adapter_N: NDArray[np.float64],
    base_N: NDArray[np.float64],
    *,
    higher_is_better: bool,
    seeds: int,
) -> Measured:
    """One metric's values, which run through the cases, seeds fastest."""

    def rows(values: NDArray[np.float64]) -> Rows:
        return tuple(tuple(round(float(v), 6) for v in row) for row in values.reshape(-1, seeds))

    return Measured(higher_is_better=higher_is_better, adapter=rows(adapter_N), base=rows(base_N))


def benchmark_digest(benchmark: Mapping[str, Any]) -> str:
    """SHA-256 over a benchmark's facts, 64 hex digits."""
    return hashlib.sha256(json.dumps(benchmark, sort_keys=True).encode()).hexdigest()
