"""What CLIP is shown: whole scenes with captions, and single things with regional ones.

A draw is one scene, two crops of its things and one portrait. Every region comes with the
descriptions of `LEVELS`; some pictures are spoilt, so that embeddings notice a picture's quality.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from insitu import world
from insitu.perception.dino import crop_square
from insitu.world.captions import article

SIZE = 64
REGIONS = 3  # two crops and a portrait
TEXT_BYTES = 320
SPOILT = 0.2  # share of degraded pictures
STYLED = 0.25  # share of scenes in another style than the sampler's own choice
FACES = 0.3  # share of people's crops that show the face only

Image = NDArray[np.uint8]


def draw(index: int) -> dict[str, np.ndarray]:
    """Draw sample `index` of the training corpus.

    Returns:
        scene [64, 64, 3] and regions [3, 64, 64, 3] uint8; caption, and texts [3] (full
        descriptions), as UTF-8 bytes; labels int16 [3, 5], each region's category, colour,
        pattern, material, style (see `PROMPTS`), -1 where nothing can be said; spoilt bool [4],
        of the scene, then the regions; judged bool [4], whether quality can be judged at all.
    """
    rng = world.rng_for("clip-train", index)
    style = world.pick(rng, list(world.STYLES)) if rng.random() < STYLED else None
    scene = world.sample_scene(rng, style=style)
    rendering = world.render(scene, size=world.pick(rng, (64, 64, 128)))
    whole = world.render(scene) if len(rendering.image) != SIZE else rendering
    chosen = rng.permutation(len(scene.things))[:2]
    regions = [_crop(rendering, scene, int(i), rng) for i in chosen]
    while len(regions) < REGIONS:
        regions.append(_portrait(rng))
    pictures = [whole.image, *(region[0] for region in regions)]
    spoilt = rng.random(1 + REGIONS) < SPOILT
    for i in np.flatnonzero(spoilt):
        pictures[i] = world.degrade(pictures[i], world.pick(rng, world.DEGRADATIONS), rng)
    # A crop of a small thing is blurred by its enlargement: nobody's fault, so it is not judged.
    judged = [True, *(region[3] for region in regions)]
    return {
        "scene": pictures[0],
        "regions": np.stack(pictures[1:]),
        "caption": _bytes(world.caption(scene, rng=rng)),
        "texts": np.stack([_bytes(region[1]) for region in regions]),
        "labels": np.stack([region[2] for region in regions]),
        "spoilt": spoilt,
        "judged": np.array(judged),
    }


def _crop(
    rendering: world.Rendering, scene: world.Scene, index: int, rng: np.random.Generator
) -> tuple[Image, str, NDArray[np.int16], bool]:
    seen = rendering.things[index]
    colours = scene.style != "line art"
    style = list(world.STYLES).index(scene.style)
    margin = float(rng.uniform(0.0, 0.2))
    if isinstance(seen.thing, world.Person) and rng.random() < FACES and seen.visible > 0.8:
        assert seen.face_box_xyxy01 is not None
        image = crop_square(rendering.image, seen.face_box_xyxy01, SIZE, margin)
        return image, describe_face(seen.thing, colours), _labels(None, "a face", style), False
    if seen.visible < 0.3 or not seen.mask.any():
        return _portrait(rng)
    image = crop_square(rendering.image, seen.box_xyxy01, SIZE, margin)
    text = world.describe(seen.thing, colours=colours)
    return image, text, label(seen.thing, colours, style), False


def _portrait(rng: np.random.Generator) -> tuple[Image, str, NDArray[np.int16], bool]:
    thing: world.Thing
    if rng.random() < 0.12:
        thing = world.sample_person(rng)
        if rng.random() < FACES:
            image = world.face_photo(thing.face, rng).image
            return image, describe_face(thing, True), _labels(None, "a face", 0), True
    else:
        thing = world.sample_subject(rng)
    return world.portrait(thing, rng).image, world.describe(thing), label(thing, True, 0), True


def describe_face(person: world.Person, colours: bool) -> str:
    """A face's own caption, e.g. "a face with long black hair and glasses"."""
    text = world.describe(person, colours=colours)
    return text.replace("a person", "a face").split(" wearing")[0]


KINDS = (*world.CATEGORIES, "person", "face")
STYLES = tuple(world.STYLES)


def prompts(*, articles: bool = True) -> dict[str, list[str]]:
    """The five groups of zero-shot prompts, in the order that `label` counts them.

    Args:
        articles: "a red mug" rather than "red mug".
    """

    def phrase(words: str) -> str:
        return article(words) if articles else words

    def grid(values: Iterable[str]) -> list[str]:
        return [phrase(f"{value} {kind}") for kind in world.CATEGORIES for value in values]

    styles = world.STYLES.values()
    return {
        "category": [phrase(kind) for kind in KINDS],
        "colour": grid(world.COLOURS),
        "pattern": grid(world.PATTERNS),
        "material": grid(world.MATERIALS),
        "style": [style.format(scene=article(kind)) for kind in KINDS for style in styles],
    }


def label(thing: world.Thing, colours: bool, style: int) -> NDArray[np.int16]:
    """Return the right prompt of each group, int16 [5]; -1 where the picture cannot tell."""
    if isinstance(thing, world.Person):
        return _labels(None, "a person", style)
    return _labels(thing if colours else None, f"a {thing.category}", style)


def _labels(subject: world.Subject | None, kind: str, style: int) -> NDArray[np.int16]:
    number = KINDS.index(kind.removeprefix("a "))
    found = [number, -1, -1, -1, number * len(STYLES) + style]
    if subject is not None:
        found[1] = number * len(world.COLOURS) + list(world.COLOURS).index(subject.colour)
        found[2] = number * len(world.PATTERNS) + world.PATTERNS.index(subject.pattern.kind)
        found[3] = number * len(world.MATERIALS) + world.MATERIALS.index(subject.material)
    return np.array(found, np.int16)


def _bytes(text: str) -> np.ndarray:
    encoded = text.encode()
    assert len(encoded) <= TEXT_BYTES, text
    return np.array(encoded, f"S{TEXT_BYTES}")
