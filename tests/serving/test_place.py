"""Proves that a request is answered by the champion, the same for the same seed, and that what
cannot be answered is refused in three parts.

Needs no trained weights: the base is a tiny random one of the real class, MLflow a SQLite file.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from mlflow import MlflowClient
from safetensors.torch import save_file

from insitu import world
from insitu.backbones.unet import InpaintBackbone
from insitu.errors import UserError
from insitu.methods import Request, find
from insitu.methods.dreammix import DreamMix
from insitu.params import Checkpoint
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.store import CHAMPION, Store
from insitu.serving.app import decode, encode, make_app
from insitu.serving.engine import Engine

SETTINGS = {
    "rank": 2, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4,
    "local": 1.0, "enlarge": 0.0, "background": "original", "substitute": "tokens",
    "scheduler": "own", "steps": 2, "guidance_scale": 2.0, "rescale": 0.0, "context": 0.3,
}  # fmt: skip
NAME = "dreammix.mug-1"


@pytest.fixture(scope="module")
def backbone(checkpoints: dict[str, Path]) -> InpaintBackbone:
    path = str(checkpoints["inpaint"])
    return InpaintBackbone.load(Checkpoint(path=path), device=torch.device("cpu"))


def make_package(folder: Path, backbone: InpaintBackbone, seed: int, base: str = "") -> Package:
    """An adapter with random weights, large enough to be seen."""
    method, generator = find("dreammix", SETTINGS), torch.Generator().manual_seed(seed)
    method.attach(backbone)
    names = method.state(backbone)
    method.detach(backbone)
    folder.mkdir()
    weights = {n: torch.randn(v.shape, generator=generator) for n, v in names.items()}
    save_file(weights, folder / WEIGHTS)
    card = Card(
        method="dreammix", subject="mug-1", class_word="mug", identifier="sks red",
        attributes={"colour": ["red"]},
        base=Base(path="tiny", revision=None, weights_digest=base or backbone.digest),
        data_digest="b" * 64, settings={"method": SETTINGS}, seed=seed,
        weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )  # fmt: skip
    (folder / CARD).write_text(card.text())
    return Package.open(folder)


@pytest.fixture(scope="module")
def store(backbone: InpaintBackbone, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Versions 1 (champion), 2, and 3, which stands on another base."""
    folder = tmp_path_factory.mktemp("serving")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    store = Store.connect(uri)
    for seed, base in ((1, ""), (2, ""), (3, "c" * 64)):
        store.register(make_package(folder / str(seed), backbone, seed, base), {})
    store.client.set_registered_model_alias(NAME, CHAMPION, "1")
    return store


@pytest.fixture(scope="module")
def client(backbone: InpaintBackbone, store: Store) -> Iterator[TestClient]:
    with TestClient(
        make_app(
            Engine(
                backbone=backbone,
                store=store,
                method="dreammix",
                vocabulary={"colour": ["red", "blue"]},
            )
        )
    ) as client:
        yield client


PHOTO = world.render(world.sample_scene(world.rng_for("serving")), 80).image


def ask(client: TestClient, **changed: Any) -> Any:
    body = {"subject": "mug-1", "image": encode(PHOTO), "box": [0.2, 0.3, 0.7, 0.9], "seed": 4}
    return client.post("/v1/place", json=body | changed)


def picture(client: TestClient, **changed: Any) -> np.ndarray:
    answer = ask(client, **changed)
    assert answer.status_code == 200, answer.text
    return decode(answer.json()["image"])


def test_the_champion_answers_within_the_box(client: TestClient) -> None:
    answer = ask(client).json()
    assert (answer["adapter"], answer["version"]) == (NAME, "1")
    painted = decode(answer["image"])
    outside = np.ones(PHOTO.shape[:2], bool)
    outside[24:72, 16:56] = False
    assert painted.shape == PHOTO.shape
    assert np.array_equal(painted[outside], PHOTO[outside])
    assert not np.array_equal(painted, PHOTO)


def test_a_picture_depends_on_seed_prompt_and_version_and_on_nothing_before_it(
    client: TestClient,
) -> None:
    first = picture(client)
    others = [
        picture(client, seed=5),
        picture(client, prompt="a {subject} in the snow"),
        picture(client, version="2"),
    ]
    assert all(not np.array_equal(first, other) for other in others)
    assert np.array_equal(picture(client), first)


def test_a_promotion_is_served_at_once(client: TestClient, store: Store) -> None:
    second = picture(client, version="2")
    store.client.set_registered_model_alias(NAME, CHAMPION, "2")
    try:
        assert np.array_equal(picture(client), second)
    finally:
        store.client.set_registered_model_alias(NAME, CHAMPION, "1")


def test_an_edit_takes_the_subjects_own_word_out(
    backbone: InpaintBackbone, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(
        backbone=backbone, store=store, method="dreammix", vocabulary={"colour": ["red", "blue"]}
    )
    asked: list[Request] = []
    paint = DreamMix.paint

    def watched(self: DreamMix, base: Any, requests: Any) -> Any:
        asked.extend(requests)
        return paint(self, base, requests)

    monkeypatch.setattr(DreamMix, "paint", watched)
    given: Any = {"subject": "mug-1", "image": PHOTO, "box_xyxy01": (0.2, 0.3, 0.7, 0.9), "seed": 4}
    plain = engine.place(**given, prompt="a {subject}")
    blue = engine.place(**given, prompt="a blue {subject} wearing a hat")
    named = engine.place(**given, prompt="a {subject}", replace=["red"])
    assert [(r.prompt, r.replaced) for r in asked] == [
        ("a sks red mug", ()),
        ("a blue sks mug wearing a hat", ("red",)),
        ("a sks mug", ("red",)),
    ]
    assert not np.array_equal(plain.image, blue.image)
    assert not np.array_equal(plain.image, named.image)
    with pytest.raises(UserError, match="has no such attribute"):
        engine.place(**given, prompt="a {subject}", replace=["striped"])


def test_adapters_act_together_by_their_weights(backbone: InpaintBackbone, store: Store) -> None:
    engine = Engine(backbone=backbone, store=store, method="dreammix")
    given: Any = {
        "subject": "mug-1", "image": PHOTO, "box_xyxy01": (0.2, 0.3, 0.7, 0.9), "seed": 4,
        "prompt": None,
    }  # fmt: skip
    alone = engine.place(**given).image
    assert np.array_equal(engine.place(**given, also={"mug-1": 0.0}).image, alone)
    assert not np.array_equal(engine.place(**given, also={"mug-1": 0.7}).image, alone)
    half = engine.place(**given, weight=0.5).image
    assert not np.array_equal(half, alone)
    # The champion beside itself, each at a half, is the champion.
    both = engine.place(**given, weight=0.5, also={"mug-1": 0.5}).image.astype(int)
    assert np.abs(both - alone).max() <= 2
    with pytest.raises(UserError, match="no such version or alias"):
        engine.place(**given, also={"cat-9": 1.0})


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"subject": "cat-9"}, "no such version or alias"),
        ({"version": "7"}, "no such version or alias"),
        ({"version": "3"}, "on other weights it means nothing"),
        ({"box": [0.7, 0.3, 0.2, 0.9]}, "within 0..1"),
        ({"box": [0.5, 0.5, 0.51, 0.51]}, "nothing can be painted"),
        ({"prompt": "a red mug"}, "does not say where the subject comes in"),
        ({"image": "AAAA"}, "no whole PNG or JPEG"),
        ({"image": "?"}, "not base64"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_three_parts(
    client: TestClient, changed: dict[str, Any], problem: str
) -> None:
    answer = ask(client, **changed)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert set(error) == {"given", "why", "to do"} and problem in error["why"]
    # And the next request is answered as if nothing had happened.
    assert ask(client).status_code == 200


@pytest.mark.parametrize(
    "changed", [{"box": [0, 0, 2, 1]}, {"surprise": 1}, {"seed": -1}, {"subject": "../x"}]
)
def test_a_malformed_request_is_refused(client: TestClient, changed: dict[str, Any]) -> None:
    assert ask(client, **changed).status_code == 422


def test_a_body_too_large_is_not_read(client: TestClient) -> None:
    answer = client.post("/v1/place", content=b"x" * (17 * 2**20))
    assert answer.status_code == 413 and "declared" in answer.json()["error"]["why"]
    assert client.get("/healthz").json() == {"status": "ok"}
