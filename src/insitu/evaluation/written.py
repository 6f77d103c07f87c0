"""What data engines wrote down about the world's pictures, against the world's truth."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.evaluation.checkpoints import Figure, bootstrap, proportion
from insitu.synthesis.boxes import overlap

SAME = 0.5
"""A box with at least this IoU is the thing's."""
SEEN = 0.5
"""A thing that is hidden further than this share is not asked for."""
Corners = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Written:
    """A thing as an engine has it: its word, box, what is said of it, and its mask if any."""

    word: str
    box_xyxy01: Corners
    text: str
    mask: NDArray[np.bool_] | None = None


@dataclass(kw_only=True)
class Truth:
    """Counts over pictures; each case is one thing."""

    found: list[bool] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)
    colours: list[bool] = field(default_factory=list)
    masks: list[float] = field(default_factory=list)

    def add(self, rows: Sequence[Written], drawn: world.Rendering) -> None:
        """Compare one picture's rows with what it shows."""
        taken: set[int] = set()
        for row in rows:
            shared = [
                overlap(row.box_xyxy01, thing.box_xyxy01) if k not in taken else 0.0
                for k, thing in enumerate(drawn.things)
            ]
            best = int(np.argmax(shared))
            is_right = shared[best] >= SAME and _word(drawn.things[best].thing) == row.word
            self.right.append(is_right)
            if not is_right:
                continue
            taken.add(best)
            self._compare(row, drawn.things[best])
        seen = [k for k, thing in enumerate(drawn.things) if thing.visible >= SEEN]
        self.found += [k in taken for k in seen]

    def _compare(self, row: Written, thing: world.RenderedThing) -> None:
        named = [word for word in row.text.split() if word in world.COLOURS]
        if named and isinstance(thing.thing, world.Subject):
            self.colours.append(named[0] == thing.thing.colour)
        if row.mask is not None:
            either, both = row.mask | thing.mask, row.mask & thing.mask
            self.masks.append(float(both.sum()) / max(1.0, float(either.sum())))

    def figures(self) -> dict[str, Figure]:
        """What there are cases of, with intervals over things."""
        result = {}
        for name, hits in (
            ("things found", self.found),
            ("rows right", self.right),
            ("colours right", self.colours),
        ):
            if hits:
                result[name] = proportion(hits)
        if self.masks:
            result["mask IoU"] = bootstrap(self.masks)
        return result


def _word(thing: world.Subject | world.Person) -> str:
    return thing.category if isinstance(thing, world.Subject) else "person"


def by_picture(rows: Iterable[tuple[str, Written]]) -> dict[str, list[Written]]:
    """Rows by the id of their picture."""
    found: dict[str, list[Written]] = {}
    for id, row in rows:
        found.setdefault(id, []).append(row)
    return found
