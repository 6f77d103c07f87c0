"""Proves that subjects come as they are, drawn or from a user's folder, and that a folder which
cannot work is refused in three parts before anything is made of it.

Needs no checkpoint: finding and describing are given as functions.
"""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from insitu import world
from insitu.errors import UserError
from insitu.synthesis import subjects

FOUND = (0.2, 0.2, 0.8, 0.9)


def photo(seed: int = 0, size: int = 96) -> np.ndarray:
    mug = world.sample_subject(world.rng_for("own", seed), category="mug")
    return world.portrait(mug, world.rng_for("own", "photo", seed), size).image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "my-mug"
    folder.mkdir()
    (folder / "subject.yaml").write_text("class: mug\n")
    for seed in range(3):
        Pillow.fromarray(photo(seed)).save(folder / f"{seed}.png")
    return folder


def read(folder: Path, found: tuple[float, float, float, float] | None = FOUND) -> list:
    return subjects.own(
        folder, find=lambda image, query: found, describe=lambda crops, word: f"a red {word}"
    )


def test_drawn_photos_show_one_identity_in_its_box() -> None:
    photos = list(subjects.drawn(3, photos=4, size=96, seed=5))
    again = list(subjects.drawn(3, photos=4, size=96, seed=5))
    assert photos == again and len({p.image.data for p in photos}) == 4
    assert len({p.id for p in photos}) == 4
    assert {(p.subject, p.class_word, p.description) for p in photos} == {
        (photos[0].subject, photos[0].class_word, photos[0].description)
    }
    for each in photos:
        assert each.class_word in each.description and each.box_from == "truth"
        assert each.image.array().shape == (96, 96, 3)


def test_a_users_folder_becomes_records(folder: Path) -> None:
    photos = read(folder)
    assert [p.id for p in photos] == ["my-mug/0", "my-mug/1", "my-mug/2"]
    assert all(np.array_equal(p.image.array(), photo(i)) for i, p in enumerate(photos))
    assert {p.box.xyxy01 for p in photos} == {FOUND} and photos[0].box_from == "detector"
    assert photos[0].description == "a red mug"


def test_what_the_user_says_comes_before_what_is_found(folder: Path) -> None:
    (folder / "subject.yaml").write_text(
        "class: mug\ndescription: my old mug\nboxes:\n  1.png: [0.1, 0.1, 0.5, 0.5]\n"
    )
    photos = read(folder, found=None)
    assert [p.box_from for p in photos] == ["photo", "given", "photo"]
    assert photos[1].box.xyxy01 == (0.1, 0.1, 0.5, 0.5)
    assert photos[0].description == "my old mug"
    assert read(folder, found=(0.5, 0.5, 0.52, 0.9))[0].box_from == "photo"


def test_photos_stand_upright_as_the_camera_held_them(folder: Path) -> None:
    lying = Pillow.fromarray(np.rot90(photo(7)))
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise to view
    lying.save(folder / "0.png", exif=exif)
    assert np.array_equal(read(folder)[0].image.array(), photo(7))


def test_names_are_those_of_partitions_and_models(tmp_path: Path) -> None:
    for name in ("b-mug", "a-cat", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text("")
    assert [path.name for path in subjects.folders(tmp_path)] == ["a-cat", "b-mug"]
    assert subjects.folders(tmp_path / "none") == []
    (tmp_path / "My Mug!").mkdir()
    with pytest.raises(UserError, match="for example to my-mug"):
        subjects.folders(tmp_path)


def jpeg(size: int) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(photo(size=96)[:size, :size]).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("3.jpg", jpeg(96)[:700], "cannot be read"),
        ("3.jpg", b"not a picture", "cannot be read"),
        ("3.jpg", jpeg(1), "too little of a subject"),
        ("subject.yaml", b"class: [", "not plain YAML"),
        ("subject.yaml", b"kind: mug", "`class`: Field required"),
        ("subject.yaml", b"class: mug\ncolor: red", "`color`: Extra inputs"),
        ("subject.yaml", b"class: mug\nboxes: {0.png: [0, 0, 2, 1]}", "within 0..1"),
        ("subject.yaml", b"class: mug\nboxes: {9.png: [0, 0, 1, 1]}", "no such photo"),
    ],
)
def test_a_folder_that_cannot_work_is_refused(
    folder: Path, name: str, content: bytes, problem: str
) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read(folder)


@pytest.mark.parametrize(("gone", "problem"), [("*.png", "holds no photo"), ("*.yaml", "has no")])
def test_an_empty_folder_is_refused(folder: Path, gone: str, problem: str) -> None:
    for path in folder.glob(gone):
        path.unlink()
    with pytest.raises(UserError, match=problem):
        read(folder)
