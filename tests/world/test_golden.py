"""Proves that world version 2 is drawn, described and measured the same, bit for bit, everywhere.

Pixels, ground truth and captions of about 190 pictures are compared with stored digests, and with
those of other processes that differ in hash seed, thread count and the processor features that
NumPy and OpenCV may use. Needs no checkpoint. Run as a script it prints the digests.

A digest that changed means that every checkpoint trained on the world is stale: raise
`WORLD_VERSION` and train them again, or take the change back.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from insitu import world

Picture = tuple[world.Rendering | np.ndarray, str]

GOLDEN = {
    "scenes": ("b4aba646a281e2c0", "31cdd1b150eb5c90", "6e371a0fb5133536"),
    "styles": ("7345a08a03a368e4", "974539f1e335ce6a", "125b333d48616abe"),
    "backgrounds": ("0c38a2b9ad271965", "dc1d9b854e27b901", "04420db177e8a060"),
    "large": ("2e145458610c0804", "fc559a2dd415e4bb", "870e4ef7e55700cc"),
    "faults": ("c6df13f91f0d4648", "edfad18c46946883", "ed121173f941f642"),
    "degradations": ("e7a2ccb88c7deba3", "e3b0c44298fc1c14", "b99bba1d2828adea"),
    "portraits": ("6e9221cfa94c7714", "5388489d8a1dd519", "7247eef10889fdb1"),
    "face_photos": ("1ebc6587d5f89a29", "121d0c714a2ad8d9", "5c210454b1facc1e"),
    "edits": ("ed05aa5863dad6e7", "279e3b17c2425aed", "8acd8264f220ad48"),
    "words": ("e3b0c44298fc1c14", "e3b0c44298fc1c14", "c2864e832b1f460b"),
}


def scenes() -> Iterator[Picture]:
    for i in range(60):
        rng = world.rng_for("golden", i)
        scene = world.sample_scene(rng)
        yield world.render(scene, 64), world.caption(scene, rng=rng)


def styles() -> Iterator[Picture]:
    for style, i in product(world.STYLES, range(3)):
        scene = world.sample_scene(world.rng_for("golden", style, i), style=style)
        yield world.render(scene, 64), world.caption(scene)


def backgrounds() -> Iterator[Picture]:
    for background in world.BACKGROUNDS:
        rng = world.rng_for("golden", background)
        scene = world.sample_scene(rng, background=background, style="photo")
        yield world.render(scene, 64), world.caption(scene, detail="category")


def large() -> Iterator[Picture]:
    """At 128 pixels, with part masks, and people in every other scene."""
    for i in range(10):
        scene = world.sample_scene(world.rng_for("golden", "large", i), people=i % 2 == 0)
        yield world.render(scene, 128, parts=True), world.caption(scene, detail="pattern")


def faults() -> Iterator[Picture]:
    for kind, i in product(world.FAULTS, range(3)):
        rng = world.rng_for("golden", kind, i)
        scene, found = world.inject(world.sample_scene(rng, count=2 + i), rng, {kind: 1.0})
        yield world.render(scene, 64), repr(found)


def degradations() -> Iterator[Picture]:
    for kind, i in product(world.DEGRADATIONS, range(3)):
        rng = world.rng_for("golden", kind, i)
        image = world.render(world.sample_scene(rng), 64).image
        yield world.degrade(image, kind, rng), kind


def portraits() -> Iterator[Picture]:
    """Every category twice, once wearing something, and four people; identities as numbers."""
    for category, wears in product(world.CATEGORIES, (False, True)):
        rng = world.rng_for("golden", category, int(wears))
        subject = world.sample_subject(rng, category=category, accessory=wears)
        words = [world.describe(subject, detail=detail) for detail in world.DETAILS]
        yield world.portrait(subject, rng), f"{words} {subject.vector().round(4).tolist()}"
    for i in range(4):
        rng = world.rng_for("golden", "person", i)
        person = world.sample_person(rng)
        words = [world.describe(person, detail=detail) for detail in world.DETAILS]
        yield world.portrait(person, rng), f"{words} {person.face.vector().round(4).tolist()}"


def face_photos() -> Iterator[Picture]:
    for i in range(10):
        rng = world.rng_for("golden", "face", i)
        yield world.face_photo(world.sample_face(rng), rng), ""


def edits() -> Iterator[Picture]:
    for i in range(10):
        rng = world.rng_for("golden", "edit", i)
        subject = world.sample_subject(rng)
        edit = world.Edit(
            colour=world.pick(rng, [None, *world.COLOURS]),
            pattern=world.pick(rng, [None, *world.PATTERNS]),
            material=world.pick(rng, [None, *world.MATERIALS]),
            accessory=world.pick(rng, [None, *world.ACCESSORIES]),
        )
        words = world.describe_edit(edit, subject.category)
        yield world.portrait(edit.apply(subject), rng), words


def words() -> Iterator[Picture]:
    yield np.zeros(0), " ".join(world.vocabulary())


SOURCES = (
    scenes, styles, backgrounds, large, faults, degradations, portraits, face_photos, edits, words
)  # fmt: skip


def digests() -> dict[str, tuple[str, str, str]]:
    """By kind of picture: short digests of its pixels, of its ground truth, of its words."""
    found = {}
    for source in SOURCES:
        pixels, truth, text = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
        for picture, line in source():
            text.update(f"{line}\n".encode())
            if isinstance(picture, np.ndarray):
                pixels.update(picture.tobytes())
                continue
            pixels.update(picture.image.tobytes())
            for thing in picture.things:
                add_truth(truth, thing)
        found[source.__name__] = (short(pixels), short(truth), short(text))
    return found


def short(digest: "hashlib._Hash") -> str:
    return digest.hexdigest()[:16]


def add_truth(digest: "hashlib._Hash", thing: world.RenderedThing) -> None:
    numbers: list[float] = [*thing.box_xyxy01, thing.visible]
    if thing.landmarks_xy01 is not None and thing.face_box_xyxy01 is not None:
        numbers += [*thing.landmarks_xy01.ravel(), *thing.face_box_xyxy01]
    # Landmarks are not snapped to samples, so a processor's last bit is rounded away.
    digest.update(" ".join(f"{number:.5f}" for number in numbers).encode())
    for name, mask in [("", thing.mask), *sorted(thing.parts.items())]:
        digest.update(name.encode() + np.packbits(mask).tobytes())


@pytest.fixture(scope="module")
def here() -> dict[str, tuple[str, str, str]]:
    return digests()


@pytest.mark.parametrize("kind", [source.__name__ for source in SOURCES])
def test_version_2_is_unchanged(kind: str, here: dict[str, tuple[str, str, str]]) -> None:
    assert world.WORLD_VERSION == 2
    assert here[kind] == GOLDEN[kind], "pixels, ground truth, words"


OTHER_PROCESSES = {
    "hash seed and threads": {
        "PYTHONHASHSEED": "4711",
        "OMP_NUM_THREADS": "3",
        "OPENBLAS_NUM_THREADS": "3",
    },
    # About what an x86-64 processor of 2008 would run; other kinds ignore these variables.
    "processor": {
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 X86_V3 AVX512_ICL",
        "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3,AVX",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
}


@pytest.mark.parametrize("difference", OTHER_PROCESSES)
def test_another_process_draws_the_same(
    difference: str, here: dict[str, tuple[str, str, str]]
) -> None:
    environment = os.environ | OTHER_PROCESSES[difference]
    done = subprocess.run(
        [sys.executable, __file__], env=environment, capture_output=True, text=True, check=True
    )
    there = json.loads(done.stdout)
    assert {kind: tuple(values) for kind, values in there.items()} == here


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
