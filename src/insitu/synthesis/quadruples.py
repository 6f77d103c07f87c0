"""Quadruples (LAR-Gen, section 5): tagging, localizing, segmenting, captioning of still images.

Each object of a picture becomes {source image, mask, subject image, regional text}. The paper
leaves open how big an object may be and when a mask fits; both are settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.detector import ZeroShotDetector
from insitu.perception.segmenter import Segmenter
from insitu.randomness import rng_for
from insitu.records import Image
from insitu.records.engines import Lineage, Quadruple
from insitu.records.pictures import Picture
from insitu.synthesis.boxes import overlap, stored
from insitu.synthesis.entities import Place, places
from insitu.synthesis.lineage import source
from insitu.synthesis.reading import Captioner, Tagger, cut
from insitu.synthesis.runner import Verdict
from insitu.synthesis.sources import split_of

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
FILTERS = ("large enough", "small enough", "mask fits")


@dataclass(frozen=True, kw_only=True)
class Still:
    """A still image with where it comes from."""

    id: str
    image: Pixels
    split: str
    source: str


def world_still(number: int, *, size: int, seed: int, shares: tuple[float, float]) -> Still:
    """A scene of the world, by number."""
    validation, test = shares
    id = f"still-{number:07d}"
    return Still(
        id=id,
        image=world.render(still_scene(number, seed), size).image,
        split=split_of(id, validation=validation, test=test),
        source=f"world {world.WORLD_VERSION}, seed {seed}, still {number}",
    )


def still_scene(number: int, seed: int) -> world.Scene:
    """The scene behind a still of the world: its truth, for measurements."""
    return world.sample_scene(rng_for("still", seed, number), style="photo", people=False)


def own_still(picture: Picture) -> Still:
    """A user's picture."""
    return Still(
        id=picture.id, image=picture.image.array(), split=picture.split, source=source(picture)
    )


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which objects count; sizes as shares of the picture.

    Attributes:
        detection: least score of their detection.
        smallest, largest: of the mask.
        fits: least IoU of the mask's own box with the box that it was asked for.
    """

    detection: float
    smallest: float
    largest: float
    fits: float


class Quadruples:
    """Tags, boxes, masks, the size rule, captions."""

    def __init__(
        self,
        *,
        tagger: Tagger,
        detector: ZeroShotDetector,
        segmenter: Segmenter,
        captioner: Captioner,
        rules: Rules,
        names: Sequence[str],
    ) -> None:
        self._tagger, self._detector = tagger, detector
        self._segmenter, self._captioner, self._rules = segmenter, captioner, rules
        self._names = (*names, segmenter.name)

    def __call__(self, rows: Sequence[Still]) -> list[Verdict[Quadruple]]:
        images = [row.image for row in rows]
        found = places(
            self._detector, images, self._tagger.tags(images), threshold=self._rules.detection
        )
        flat = [(i, place) for i, own in enumerate(found) for place in own]
        if not flat:
            return []
        masks = self._segmenter.segment([images[i] for i, _ in flat], [p.box for _, p in flat])
        crops = [cut(images[i], place.box) for i, place in flat]
        texts = self._captioner.regional(crops, [place.word for _, place in flat])
        parts: list[list[tuple[float, str]]] = [[] for _ in rows]
        for (i, place), text in zip(flat, texts, strict=True):
            parts[i].append((place.box[0] + place.box[2], text))
        whole = self._captioner.whole(images, [[t for _, t in sorted(own)] for own in parts])
        numbers = _numbers(flat)
        return [
            self._verdict(rows[i], number, place, mask, crop, text, whole[i])
            for (i, place), number, mask, crop, text in zip(
                flat, numbers, masks, crops, texts, strict=True
            )
        ]

    def _verdict(
        self,
        row: Still,
        number: int,
        place: Place,
        mask: Mask,
        crop: Pixels,
        text: str,
        whole: str,
    ) -> Verdict[Quadruple]:
        rules = self._rules
        area = round(float(mask.mean()), 4)
        fits = round(overlap(bounds(mask), place.box), 4)
        record = Quadruple(
            id=f"{row.id}/{number}",
            image=Image.from_array(row.image),
            mask=Image.from_array(np.where(mask, np.uint8(255), np.uint8(0))),
            box=stored(place.box),
            subject=Image.from_array(crop),
            text=text,
            global_text=whole,
            tag=place.word,
            area=area,
            agreement=fits,
            split=row.split,
            lineage=Lineage(sources=(row.source,), models=self._names),
        )
        if area < rules.smallest:
            why = f"the mask has {area:.1%} of the picture, under {rules.smallest:.1%}"
            return Verdict(record=record, filter=FILTERS[0], score=area, reason=why)
        if area > rules.largest:
            why = f"the mask has {area:.1%} of the picture, over {rules.largest:.1%}"
            return Verdict(record=record, filter=FILTERS[1], score=area, reason=why)
        if fits < rules.fits:
            why = f"IoU of the mask's box with the box {fits:.2f} < {rules.fits:g}"
            return Verdict(record=record, filter=FILTERS[2], score=fits, reason=why)
        return Verdict(record=record)


def _numbers(flat: Sequence[tuple[int, Place]]) -> list[int]:
    """Each object's number within its picture."""
    seen: dict[int, int] = {}
    result = []
    for i, _ in flat:
        result.append(seen.get(i, 0))
        seen[i] = result[-1] + 1
    return result


def bounds(mask: Mask) -> tuple[float, float, float, float]:
    """The box of a mask that is not empty, in shares of the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return (
        float(columns[0]) / width,
        float(rows[0]) / height,
        float(columns[-1] + 1) / width,
        float(rows[-1] + 1) / height,
    )
