"""Entities (EliGen, section 4.1): a caption is drawn, and what the picture shows is written down.

The picture comes from the base model itself, so that training stays in its own distribution; the
global prompt is what a captioner says of the picture, not what was asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.errors import UserError
from insitu.perception.clip import ClipScorer
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.dino import crop_square
from insitu.randomness import rng_for
from insitu.records import Image
from insitu.records.engines import Entity, EntityPicture, Lineage
from insitu.synthesis.boxes import overlap, stored
from insitu.synthesis.generators import FluxGenerator
from insitu.synthesis.reading import SIDE, Captioner, Tagger, cut
from insitu.synthesis.runner import Verdict
from insitu.synthesis.sources import split_of

Pixels = NDArray[np.uint8]
FILTERS = ("entities found", "entities agree")
SAME = 0.6
"""Boxes with a larger IoU show one thing."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A caption to be drawn, with its number and the seed of its picture."""

    number: int
    caption: str
    seed: int

    @property
    def id(self) -> str:
        return f"entities-{self.number:07d}"


class Drawer(Protocol):
    """Draws captions; `name` pins what drew them."""

    name: str

    def draw(self, asked: Sequence[Asked]) -> list[Pixels]: ...


class WorldDrawer:
    """Scenes of the world, by number: their captions are the captions that are asked for."""

    def __init__(self, *, size: int, seed: int) -> None:
        self.name = f"world {world.WORLD_VERSION}"
        self._size, self._seed = size, seed

    def draw(self, asked: Sequence[Asked]) -> list[Pixels]:
        return [world.render(scene_of(self._seed, a.number), self._size).image for a in asked]


class FluxDrawer:
    """FLUX, from the captions."""

    def __init__(self, generator: FluxGenerator) -> None:
        self.name, self._generator = generator.name, generator

    def draw(self, asked: Sequence[Asked]) -> list[Pixels]:
        return self._generator.pictures([a.caption for a in asked], [a.seed for a in asked])


def scene_of(seed: int, number: int) -> world.Scene:
    """The scene of that number."""
    return world.sample_scene(rng_for("entities", seed, number), style="photo")


def world_captions(numbers: Sequence[int], *, seed: int) -> list[Asked]:
    """Captions of the world's scenes, worded as people would."""
    return [
        Asked(
            number=number,
            caption=world.caption(
                scene_of(seed, number), rng=rng_for("entities-words", seed, number)
            ),
            seed=_seed(seed, number),
        )
        for number in numbers
    ]


def read_captions(lines: Sequence[str], *, seed: int) -> list[Asked]:
    """A user's captions, one a line; empty lines are passed over.

    Raises:
        UserError: there is none.
    """
    said = [line.strip() for line in lines if line.strip()]
    if not said:
        raise UserError(
            "A file of captions was given for `entities.captions`.",
            "It holds no line with a word.",
            "Write one caption a line into it, or use `world`.",
        )
    return [Asked(number=n, caption=text, seed=_seed(seed, n)) for n, text in enumerate(said)]


def world_cannot_draw(captions: str) -> UserError:
    """The refusal of a user's captions for the world."""
    return UserError(
        f"The captions of {captions} were given for the generator `world`.",
        "The world draws scenes, not words: only its own captions have a scene.",
        "Set `entities.generator` to flux, or `entities.captions` to world.",
    )


def _seed(seed: int, number: int) -> int:
    return int(rng_for("entities-seed", seed, number).integers(2**31))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which entities count.

    Attributes:
        detection: least score of their detection.
        smallest: least share of the picture that their box has.
        most: of a picture, the surest ones.
        agreement: least cosine of CLIP between crop and prompt.
        shares: of captions for validation and test.
    """

    detection: float
    smallest: float
    most: int
    agreement: float
    shares: tuple[float, float]


class Entities:
    """Draws captions and writes down the entities."""

    def __init__(
        self,
        *,
        drawer: Drawer,
        tagger: Tagger,
        captioner: Captioner,
        detector: ZeroShotDetector,
        clip: ClipScorer,
        rules: Rules,
        names: Sequence[str],
    ) -> None:
        self._drawer, self._tagger, self._captioner = drawer, tagger, captioner
        self._detector, self._clip, self._rules = detector, clip, rules
        self._names = (drawer.name, *names)

    def __call__(self, rows: Sequence[Asked]) -> list[Verdict[EntityPicture]]:
        images = self._drawer.draw(rows)
        found = places(
            self._detector, images, self._tagger.tags(images), threshold=self._rules.detection
        )
        kept = [
            sorted(
                sorted(own, key=lambda place: -place.score)[: self._rules.most],
                key=lambda place: place.box[0] + place.box[2],
            )
            for own in ([p for p in each if p.area >= self._rules.smallest] for each in found)
        ]
        flat = [(i, place) for i, own in enumerate(kept) for place in own]
        prompts = (
            self._captioner.regional(
                [cut(images[i], place.box) for i, place in flat], [p.word for _, p in flat]
            )
            if flat
            else []
        )
        agreement = self._agreement(images, flat, prompts)
        entities: list[list[tuple[Entity, float]]] = [[] for _ in rows]
        for (i, place), prompt, cosine in zip(flat, prompts, agreement, strict=True):
            entity = Entity(word=place.word, prompt=prompt, box=stored(place.box))
            entities[i].append((entity, cosine))
        least = self._rules.agreement
        agreeing = [tuple(e for e, cosine in own if cosine >= least) for own in entities]
        whole = self._captioner.whole(images, [[e.prompt for e in own] for own in agreeing])
        best = [max((cosine for _, cosine in own), default=None) for own in entities]
        return [
            self._verdict(*case) for case in zip(rows, images, agreeing, best, whole, strict=True)
        ]

    def _agreement(
        self, images: Sequence[Pixels], flat: Sequence[tuple[int, "Place"]], prompts: Sequence[str]
    ) -> list[float]:
        if not flat:
            return []
        crops = [crop_square(images[i], place.box, SIDE) for i, place in flat]
        both = self._clip.embed_images(crops) * self._clip.embed_texts(prompts)
        return [round(float(cosine), 4) for cosine in both.sum(-1)]

    def _verdict(
        self,
        row: Asked,
        image: Pixels,
        entities: tuple[Entity, ...],
        best: float | None,
        prompt: str,
    ) -> Verdict[EntityPicture]:
        """`best` = the highest agreement of what was found, None if nothing was."""
        validation, test = self._rules.shares
        record = EntityPicture(
            id=row.id,
            image=Image.from_array(image),
            asked=row.caption,
            prompt=prompt,
            entities=entities,
            split=split_of(row.id, validation=validation, test=test),
            lineage=Lineage(sources=(f"caption {row.number}",), models=self._names),
        )
        if best is None:
            return Verdict(record=record, filter=FILTERS[0], score=0.0, reason="no entity is found")
        if not entities:
            reason = f"the best prompt agrees {best:.2f} < {self._rules.agreement:g}"
            return Verdict(record=record, filter=FILTERS[1], score=best, reason=reason)
        return Verdict(record=record)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a tag's thing is, and how surely."""

    word: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def area(self) -> float:
        """The box's share of the picture."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def places(
    detector: ZeroShotDetector,
    images: Sequence[Pixels],
    tags: Sequence[Sequence[str]],
    *,
    threshold: float,
) -> list[list[Place]]:
    """Where each picture's own tags are; of several words for one place the surest stays."""
    words = sorted({word for own in tags for word in own})
    if not words:
        return [[] for _ in images]
    queries = {world.article(word): word for word in words}
    found = detector.detect(images, list(queries), threshold=threshold)
    result = []
    for own, detections in zip(tags, found, strict=True):
        kept: list[Place] = []
        for d in detections:  # best first
            word = queries[d.query]
            apart = all(overlap(d.box_xyxy01, place.box) < SAME for place in kept)
            if word in own and apart:
                kept.append(Place(word=word, score=d.score, box=d.box_xyxy01))
        result.append(kept)
    return result
