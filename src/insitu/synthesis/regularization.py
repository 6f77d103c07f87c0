"""Regularization data (DreamMix, ADM): pictures of a subject's class with attributes.

The untuned base paints them, which cannot know the identifier, so it is asked without; training
puts the identifier in, so that the attributes' words keep their own meaning beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from insitu.perception.segmenter import Segmenter
from insitu.randomness import rng_for
from insitu.records import Image
from insitu.records.engines import Lineage, RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.synthesis.lineage import source
from insitu.synthesis.tagging import UNSAID
from insitu.world import article

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A picture to be painted into a photo's box, with the attributes that it shows."""

    photo: SubjectPhoto
    attributes: tuple[str, ...]
    seed: int

    @property
    def prompt(self) -> str:
        """What the base is asked for: "a [attributes] [class]"."""
        return article(" ".join([*self.attributes, self.photo.class_word]))


def asked(
    photos: Sequence[SubjectPhoto],
    dictionary: Mapping[str, Sequence[str]],
    vocabulary: Mapping[str, Sequence[str]],
    *,
    words: Literal["vocabulary", "dictionary"],
    images: int,
    seed: int,
) -> list[Asked]:
    """What is painted for one subject, each in the box of one of its photos in turn.

    Args:
        dictionary: the subject's own words, by kind (the paper's).
        vocabulary: all words, by kind.
        words: `dictionary` = a random part of the subject's own words at once, as in the paper;
            `vocabulary` = one word of all, so that others than its own are seen, too.
    """
    rng = rng_for("regularization", seed, photos[0].subject)
    every = [word for own in vocabulary.values() for word in own]
    known = [word for own in dictionary.values() for word in own if word not in UNSAID]
    if not (every if words == "vocabulary" else known):
        return []
    result = []
    for index in range(images):
        if words == "vocabulary":
            chosen = (every[int(rng.integers(len(every)))],)
        else:
            count = int(rng.integers(1, len(known) + 1))
            chosen = tuple(known[i] for i in sorted(rng.permutation(len(known))[:count]))
        photo = photos[index % len(photos)]
        result.append(Asked(photo=photo, attributes=chosen, seed=int(rng.integers(2**31))))
    return result


def records(
    wanted: Sequence[Asked], painted: Sequence[Pixels], segmenter: Segmenter, base: str
) -> list[RegularPhoto]:
    """The painted pictures with masks of what was painted; `base` = what pins the painter."""
    boxes = [one.photo.box.xyxy01 for one in wanted]
    masks = segmenter.segment(list(painted), boxes) if wanted else []
    return [
        RegularPhoto(
            id=f"{one.photo.subject}/regular-{index}",
            subject=one.photo.subject,
            class_word=one.photo.class_word,
            attributes=one.attributes,
            image=Image.from_array(picture),
            box=one.photo.box,
            mask=Image.from_array(np.where(mask, np.uint8(255), np.uint8(0))),
            prompt=one.prompt,
            lineage=Lineage(sources=(source(one.photo),), models=(base, segmenter.name)),
        )
        for index, (one, picture, mask) in enumerate(zip(wanted, painted, masks, strict=True))
    ]
