"""People of the world: their faces, reference pictures, and group photos with names."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.randomness import rng_for
from insitu.synthesis.sources import split_of

Pixels = NDArray[np.uint8]
Corners = tuple[float, float, float, float]
JITTER = 0.15
"""How far an annotated face box of the world is off, as a share of its sides, at most."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A name that someone gave to a place: an identity, and the box of its face."""

    identity: str
    box_xyxy01: Corners


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A group photo with the names of who is on it.

    Attributes:
        misnamed: of the world's photos, the place in `names` that has a wrong identity, if any.
    """

    id: str
    image: Pixels
    names: tuple[Named, ...]
    source: str
    split: str
    misnamed: int | None = None


@dataclass(frozen=True, kw_only=True)
class WorldPeople:
    """People of the world: `identities` faces, and group photos of them."""

    identities: int
    size: int
    seed: int
    misnamed: float
    shares: tuple[float, float]

    def name(self, index: int) -> str:
        return f"person-{world.WORLD_VERSION}-{self.seed}-{index}"

    def split(self, index: int) -> str:
        validation, test = self.shares
        return split_of(self.name(index), validation=validation, test=test)

    def face(self, index: int) -> world.Face:
        return world.sample_face(rng_for("people", self.seed, index))

    def reference(self, index: int, view: int) -> Pixels:
        """A reference picture: this face on a bust of its own; clothes and light vary."""
        rng = rng_for("face-photo", self.seed, index, view)
        person = replace(world.sample_person(rng, face=self.face(index)), accessory=None)
        return world.portrait(person, rng, self.size).image

    def photo(self, number: int) -> Annotated:
        """A group photo of one to four people of one split, with names that may be wrong."""
        rng = rng_for("group", self.seed, number)
        pools: dict[str, list[int]] = {}
        for index in range(self.identities):
            pools.setdefault(self.split(index), []).append(index)
        sizes = np.array([len(pool) for pool in pools.values()], float)
        split = list(pools)[int(rng.choice(len(pools), p=sizes / sizes.sum()))]
        count = min(int(rng.integers(1, 5)), len(pools[split]))
        chosen = [int(i) for i in rng.choice(pools[split], size=count, replace=False)]
        things: list[world.Subject | world.Person] = [
            replace(world.sample_person(rng, face=self.face(index)), accessory=None)
            for index in chosen
        ]
        scene = world.sample_scene(rng, things=things, style="photo")
        drawn = world.render(scene, self.size)
        place = {id(thing): k for k, thing in enumerate(things)}
        names: list[Named | None] = [None] * count
        for rendered in drawn.things:
            k = place[id(rendered.thing)]
            if rendered.face_box_xyxy01 is not None:
                box = _jittered(rendered.face_box_xyxy01, rng)
                names[k] = Named(identity=self.name(chosen[k]), box_xyxy01=box)
        known = [name for name in names if name is not None]
        wrong = None
        strangers = [i for i in pools[split] if i not in chosen]
        if strangers and rng.random() < self.misnamed:
            wrong = int(rng.integers(len(known)))
            stranger = self.name(strangers[int(rng.integers(len(strangers)))])
            known[wrong] = replace(known[wrong], identity=stranger)
        return Annotated(
            id=f"group-{number:07d}",
            image=drawn.image,
            names=tuple(known),
            source=f"world {world.WORLD_VERSION}, seed {self.seed}, group {number}",
            split=split,
            misnamed=wrong,
        )


def _jittered(box: Corners, rng: np.random.Generator) -> Corners:
    """As people draw boxes: each edge off by its own share."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = rng.uniform(-JITTER, JITTER, 4)
    wide, high = x1 - x0, y1 - y0
    return (
        min(max(0.0, x0 + left * wide), 0.98),
        min(max(0.0, y0 + top * high), 0.98),
        max(min(1.0, x1 + right * wide), 0.02),
        max(min(1.0, y1 + bottom * high), 0.02),
    )


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """A picture of one identity, to be put into the bank."""

    id: str
    identity: str
    image: Pixels
    source: str
    split: str
