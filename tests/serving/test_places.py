"""Proves that `insitu place` with each FLUX method paints what its words ask for, by the adapter
that lies in a folder, and that words it cannot follow are refused in three parts.

Needs no trained weights: the base is a tiny random one of the real class.
"""

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from insitu import world
from insitu.backbones import bases
from insitu.cli import app
from insitu.errors import UserError
from insitu.methods import Placement, Request, find, pinned
from insitu.params import load
from insitu.registry.package import CARD, WEIGHTS, Base, Card
from insitu.serving.faces import face_finder, with_landmarks
from insitu.serving.places import _words, place_of
from tests.tiny import write_params

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
SIZE = 32
FEW = ("--set", "steps=2")
OTHER = "data/trained/anyphoto"
FACE = "landmarks=.4,.4,.6,.4,.5,.5,.42,.6,.58,.6"
ASKED = {
    "inpaint_anywhere": (
        "[V1] mug and [V2] cat on a rug", (),
        ("box=0,0,.5,1 reference=ref.png prompt=mug", "box=.5,0,1,1 reference=ref.png prompt=cat"),
    ),
    "eligen": (
        "a red mug on a rug", ("--negative-prompt", "a cat"),
        ("mask=mask.png prompt='a red mug'", "box=.5,.5,1,1 prompt='a blue cat'"),
    ),
    "lar_gen": (
        "a red mug", ("--negative-prompt", "a cat", "--set", "beta=0.6"),
        ("box=.2,.2,.7,.8 reference=ref.png",),
    ),
    "anyphoto": (
        "a person in the snow", ("--free",),
        (f"{FACE} reference=ref.png reference_{FACE}",),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings on tiny checkpoints, pictures, and an adapter of each method with random weights."""
    folder = tmp_path_factory.mktemp("places")
    write_params(folder / "params.yaml", checkpoints)
    params = load(folder / "params.yaml")
    cpu = torch.device("cpu")
    loaded = {
        name: bases.load(name, getattr(params.models, name), device=cpu)
        for name in ("flux", "inpaint")
    }
    rng = np.random.default_rng(0)
    for name in ("photo", "ref"):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)).save(
            folder / f"{name}.png"
        )
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[8:24, 4:14] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    for name in ASKED:
        own = pinned(name, params.learned(name)[0], params.models)
        method = find(name, own)
        base = loaded[method.base]
        method.attach(base)
        weights = {k: torch.randn(v.shape) / 4 for k, v in method.state(base).items()}
        method.detach(base)
        target = folder / "data" / "trained" / name
        target.mkdir(parents=True)
        save_file(weights, target / WEIGHTS)
        card = Card(
            method=name, subject=None, class_word=None, identifier=None,
            base=Base(path="tiny", revision=None, weights_digest=base.digest),
            data_digest="b" * 64, settings={"method": own}, seed=0,
            weights_sha256=hashlib.sha256((target / WEIGHTS).read_bytes()).hexdigest(),
        )  # fmt: skip
        (target / CARD).write_text(card.text())
    return folder


def place(name: str, *words: str, at: tuple[str, ...] = ()) -> Any:
    placed = [word for one in at for word in ("--at", one)]
    return CliRunner().invoke(app, ["place", name, *words, *placed])


@pytest.mark.parametrize("name", ASKED)
def test_each_method_paints_what_the_words_ask_for(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    prompt, more, at = ASKED[name]

    def painted(*words: str) -> np.ndarray:
        done = place(
            name, "photo.png", "--prompt", prompt, "--set", "steps=2", *more, *words, at=at
        )
        assert done.exit_code == 0, done.output
        return np.asarray(Image.open("placed.png"))

    first = painted()
    assert first.shape == (SIZE, SIZE, 3)
    assert (first == painted()).all()
    assert (first != painted("--seed", "1")).any()


def test_a_whole_picture_needs_no_photo(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    prompt, _, at = ASKED["anyphoto"]
    done = place(
        "anyphoto", f"{SIZE}x{SIZE}", "--prompt", prompt, "--free", "--set", "steps=1", at=at
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("name", "words", "at", "told"),
    [
        ("eligen", (), ("prompt=mug",), "not where"),
        ("eligen", (), ("box=0,0,1,1 mask=mask.png prompt=mug",), "two places"),
        ("eligen", (), ("box=0,0,1 prompt=mug",), "not 4 numbers"),
        ("eligen", (), ("box=0,0,1,1 colour=red",), "no key and value"),
        ("eligen", (), ("box=0,0,1,1 reference=none.png prompt=mug",), "cannot be read"),
        ("eligen", (), ("box=0,0,1,1 reference=ref.png prompt=mug",), "does not use that"),
        ("inpaint_anywhere", (), ("box=0,0,1,1 prompt=mug",), "It needs one for each"),
        ("inpaint_anywhere", (), ("box=0,0,1,1 reference=ref.png",) * 3, "It takes 1 to 2"),
        ("inpaint_anywhere", (), ("box=0,0,1,1 reference=ref.png",), "placeholder"),
        ("anyphoto", (), (f"{FACE} reference=ref.png reference_{FACE}",), "paints whole pictures"),
        ("lar_gen", (), ("box=0,0,1,1 reference=ref.png",), "Nothing of it would stay"),
        ("lar_gen", ("--also", "cat-2=1"), ("box=0,0,.5,1",), "has no attributes"),
        ("mug-1", ("0,0,1,.5", "--also", "cat-2"), (), "no subject=weight"),
        ("eligen", ("--adapter", "nowhere"), ("box=0,0,1,1 prompt=mug",), "There is none"),
        ("eligen", ("--adapter", OTHER), ("box=0,0,1,1 prompt=mug",), "of anyphoto"),
        ("eligen", ("--set", "depth=3"), ("box=0,0,1,1 prompt=mug",), "no key=value"),
        ("eligen", ("--set", "steps=none"), ("box=0,0,1,1 prompt=mug",), "It cannot be"),
        ("eligen", ("0,0,1,1",), ("box=0,0,1,1 prompt=mug",), "A box alone is a subject's"),
        ("mug-1", (), (), "Nothing says where"),
        ("mug-1", ("0,0,1,1", "--free"), (), "paints as it was measured"),
    ],
)  # fmt: skip
def test_what_cannot_be_followed_is_refused(
    name: str, words: tuple[str, ...], at: tuple[str, ...], told: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    done = place(name, "photo.png", *words, "--prompt", "a mug", at=at)
    assert done.exit_code == 2, done.output
    assert all(part in done.output for part in ("given:", "why:", "to do:"))
    assert told in " ".join(done.output.split())


@given(st.text(max_size=40))
def test_any_text_is_a_place_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        place_of(text)


def test_the_docs_places_are_understood() -> None:
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text()
    told = re.findall(r'--at "([^"]+)"', page)
    assert len(told) > 6
    for text in told:
        assert {"box", "mask"} & _words(text).keys()
    named = re.findall(r"^insitu place (\w+) ", page, re.MULTILINE)
    assert {*named} == {*ASKED, "uno"}


def test_landmarks_of_a_reference_are_found_where_none_are_given(
    folder: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    judges = {name: NANO / name for name in ("detector", "face")}
    write_params(folder / "nano.yaml", checkpoints | judges)
    rng = world.rng_for("test", "place")
    person = world.sample_scene(rng, count=1, people=True).things[0]
    Image.fromarray(world.portrait(person, rng, 96).image).save("person.png")
    words = ("photo.png", "--prompt", "a person", "--free", *FEW, "--params", "nano.yaml")
    done = place("anyphoto", *words, at=("box=.2,.2,.8,.8 reference=person.png",))
    assert done.exit_code == 0, done.output
    Image.new("RGB", (96, 96), "white").save("nobody.png")
    done = place("anyphoto", *words, at=("box=.2,.2,.8,.8 reference=nobody.png",))
    assert done.exit_code == 2 and "no face in it" in " ".join(done.output.split())


def test_a_close_up_is_looked_at_from_afar(folder: Path, checkpoints: dict[str, Path]) -> None:
    """Alone, the embedded detector finds one in five of them."""
    judges = {name: NANO / name for name in ("detector", "face")}
    write_params(folder / "nano.yaml", checkpoints | judges)
    finder = face_finder(load(folder / "nano.yaml"))
    box, errors = (0.2, 0.2, 0.8, 0.8), []
    for seed in range(8):
        rng = world.rng_for("close-up", seed)
        photo = world.face_photo(world.sample_face(rng), rng, 96)
        asked = Request(
            image=photo.image, prompt="a person", seed=0,
            placements=(Placement(box_xyxy01=box, reference=photo.image),),
        )  # fmt: skip
        try:
            (placement,) = with_landmarks(asked, lambda: finder).placements
        except UserError:
            continue
        found = np.array(placement.reference_landmarks_xy01)
        errors.append(np.abs(found - photo.things[0].landmarks_xy01).mean())
    assert len(errors) >= 7 and np.median(errors) < 0.05
