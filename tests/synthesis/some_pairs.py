"""What tests of BoundID share: a small bank, and records of verdicts."""

from typing import Any

from insitu.records.engines import Lineage
from insitu.synthesis import bank

Corners = tuple[float, float, float, float]
GRID = 24
NOTHING = Lineage(sources=(), models=())


# The bank and its pairs.

BANK = bank.WorldBank(identities=40, size=32, seed=7, shares=(0.2, 0.2))


def records(verdicts: Any) -> list[Any]:
    return [verdict.record for verdict in verdicts]
