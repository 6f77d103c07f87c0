"""Proves that faces pasted from the reference, of strangers and lost ones are told apart.

Pictures are of the procedural world, compared in pairs. Needs models/nano: detector, face.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from insitu import world
from insitu.errors import UserError
from insitu.evaluation.checkpoints import bootstrap
from insitu.evaluation.metrics import Case, Entity, Photo, summarize
from insitu.evaluation.metrics.faces import FaceCopyPaste, FaceFound, FaceLikeness, FaceReader
from insitu.perception.face_finder import FaceFinder, ZeroShotFaceFinder

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
PEOPLE, SIDE = 24, 128
Image = np.ndarray


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """Somebody in a scene, and a photo of the same face in another look and light."""

    image: Image
    entity: Entity


def portrait(n: int, finder: FaceFinder) -> Portrait:
    """A benchmark's row: the face is whole in both pictures, and found in them."""
    rng = world.rng_for("test", "metrics-face", n)
    while True:
        face = world.sample_face(rng)
        person = replace(world.sample_person(rng, face=face), accessory=None)
        scene = world.sample_scene(rng, things=[person], style="photo")
        (seen,) = world.render(scene, SIDE).things
        image, photo = world.render(scene, SIDE).image, world.portrait(person, rng, SIDE)
        box, known = seen.face_box_xyxy01, photo.things[0].face_box_xyxy01
        assert box is not None and known is not None
        entity = Entity(
            box_xyxy01=box,
            truth=Photo(image=image, box_xyxy01=box),
            references=(Photo(image=photo.image, box_xyxy01=known),),
        )
        if min(box) > 0 and max(box) < 1 and found(finder, entity):
            return Portrait(image=image, entity=entity)


def found(finder: FaceFinder, entity: Entity) -> bool:
    assert entity.truth is not None
    try:
        return bool(FaceReader(finder).photos([entity.truth, *entity.references]))
    except UserError:
        return False


def with_face(own: Portrait, photo: Photo) -> Image:
    """The other picture's head, pixel by pixel, look and light included, over this one's."""
    x0, y0, x1, y1 = np.rint(np.array(photo.box_xyxy01) * SIDE).astype(int)
    reach = (x1 - x0) // 2  # hair and ears are part of what an embedder sees
    rows, columns = slice(max(0, y0 - reach), y1 + reach), slice(max(0, x0 - reach), x1 + reach)
    head = photo.image[rows, columns]
    image = own.image.copy()
    u0, v0, u1, v1 = np.array(own.entity.box_xyxy01) * SIDE
    top = int(np.clip((v0 + v1) / 2 - (y0 + y1) / 2 + rows.start, 0, SIDE - head.shape[0]))
    left = int(np.clip((u0 + u1) / 2 - (x0 + x1) / 2 + columns.start, 0, SIDE - head.shape[1]))
    image[top : top + head.shape[0], left : left + head.shape[1]] = head
    return image


def test_faces_pasted_strange_and_lost_are_told_apart() -> None:
    finder = ZeroShotFaceFinder.from_pretrained(NANO / "detector", NANO / "face")
    reader = FaceReader(finder)
    people = [portrait(n, finder) for n in range(PEOPLE)]

    def cases(images: Sequence[Image]) -> list[Case]:
        return [
            Case(image=image, entities=(person.entity,))
            for image, person in zip(images, people, strict=True)
        ]

    right = cases([person.image for person in people])
    pastes = cases([with_face(p, p.entity.references[0]) for p in people])
    strangers = [people[n - 1].entity.references[0] for n in range(PEOPLE)]
    others = cases([with_face(p, photo) for p, photo in zip(people, strangers, strict=True)])
    copying, likeness = FaceCopyPaste(reader), FaceLikeness(reader, "truth")
    assert copying(right).values.max() < -0.99
    assert copying(pastes).values.mean() > 0.4  # boxes and landmarks are found a little elsewhere
    whole = copying(cases([person.entity.references[0].image for person in people]))
    assert whole.values.min() > 0.99
    assert bootstrap(copying(pastes).values - copying(right).values).low > 1
    assert bootstrap(likeness(right).values - likeness(others).values).low > 0.3
    assert bootstrap(likeness(pastes).values - likeness(others).values).low > 0.2
    grey = cases([np.full_like(person.image, 128) for person in people])
    assert FaceFound(reader)(grey).values.max() == 0
    scores = likeness(grey)
    assert scores.values.tolist() == [-1] * PEOPLE and summarize(scores).failed == PEOPLE
