"""What claims need, and where it is kept under `.insitu/claims`; loads no model library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from insitu.evaluation.claims.registered import Registered

WORK = Path(".insitu/claims")
SUBJECTS = WORK / "subjects"
"""Data of the subjects that are tuned."""
ASKED, FACTS, PICTURES = "asked.json", "facts.json", "pictures"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an arm's adapter of one training lies, and where its tables are.

    Attributes:
        replicate: the training's seed; of a method that is tuned, the subject's number.
    """

    method: str
    arm: str
    replicate: int

    @property
    def folder(self) -> Path:
        return WORK / self.method / self.arm.replace(" ", "-") / str(self.replicate)

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def table(self, benchmark: str) -> Path:
        """Scores, and the first training's pictures."""
        return self.folder / benchmark


def start_of(method: str, start: str) -> Place:
    return Place(method=method, arm=f"start {start}", replicate=0)


def asked_in(digest: str) -> Path:
    """Where what items of a digest ask for is kept as pictures."""
    return WORK / "asked" / digest[:16]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What some claims and curves need.

    Attributes:
        benchmarks: by method and arm, which are painted with it.
        adapters: by method and arm whose adapter it is, the replicates.
    """

    benchmarks: Mapping[tuple[str, str], Sequence[str]]
    adapters: Mapping[tuple[str, str], Sequence[int]]
    likes: Mapping[tuple[str, str], str]

    @classmethod
    def of(cls, registered: Registered, ids: Sequence[str], *, curves: bool) -> "Wanted":
        found: dict[tuple[str, str], list[str]] = {}
        for method, own in registered.methods.items():
            asked = [
                side
                for claim in own.claims
                if claim.id in ids
                for test in claim.tests
                for side in own.sides(test)
            ]
            if curves:
                asked += [(a, own.benchmark(c.on)) for c in own.curves for a in c.arms.values()]
            for arm, benchmark in asked:
                there = found.setdefault((method, arm), [])
                if benchmark not in there:
                    there.append(benchmark)
        likes = {(m, arm): registered.methods[m].adapter(arm) for m, arm in found}
        adapters = {
            (m, like): replicates(registered, m, like) for (m, _), like in likes.items()
        }  # fmt: skip
        return cls(benchmarks=found, adapters=adapters, likes=likes)

    def painting(self, method: str, adapter: str) -> list[str]:
        """The arms that paint with an arm's adapter."""
        return [arm for (m, arm), like in self.likes.items() if (m, like) == (method, adapter)]


def replicates(registered: Registered, method: str, arm: str) -> list[int]:
    """Seeds of an arm's trainings, or numbers of subjects."""
    own = registered.methods[method]
    if own.subjects is not None:
        return list(range(own.subjects))
    chosen = own.arms[own.adapter(arm)]
    return list(chosen.seeds or registered.seeds)
