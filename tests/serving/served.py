"""A server on tiny random bases and registered adapters, for tests: all parts are the real ones."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow import MlflowClient
from pydantic import BaseModel
from ruamel.yaml import YAML
from safetensors.torch import save_file

from insitu import world
from insitu.backbones.flux import FluxBackbone
from insitu.backbones.unet import InpaintBackbone
from insitu.methods import find
from insitu.params import Checkpoint, FluxCheckpoint, Params, load
from insitu.perception.language import Question, Unanswered
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.store import CHAMPION, Store
from insitu.serving.catalog import Catalog
from insitu.serving.engine import Engine
from insitu.serving.service import Service
from insitu.serving.shelf import Shelf
from tests import tiny

MUG, CUP, ELIGEN, TWO = "dreammix.mug-1", "dreammix.cup-2", "eligen", "inpaint_anywhere"
VOCABULARY = {"colour": ["red", "blue"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "dreammix": {
        "rank": 2, "targets": ["to_k", "to_v"], "inside": 1.5, "outside": 0.7, "beta": 0.4,
        "local": 1.0, "enlarge": 0.0, "background": "original", "substitute": "tokens",
        "scheduler": "own", "steps": 2, "guidance_scale": 2.0, "rescale": 0.0, "context": 0.3,
    },
    "eligen": {
        "most": 3, "rank": 2, "feed_forward": False, "training_guidance": 1.0, "steps": 2,
        "guidance_scale": 2.0, "guidance": 3.5, "fuse": "after_cfg", "paste": True,
        "image_prompt": None, "image_prompt_scale": 1.0,
    },
    "inpaint_anywhere": {
        "most": 2, "identity_rank": 2, "inpaint_rank": 2, "targets": "qkv", "adapters": "both",
        "shifted": True, "placed": True, "frequencies": 2, "group": "identity+position",
        "reference_size": 0, "fill": 128, "category": True, "steps": 2, "guidance_scale": 3.5,
        "passes": "one", "paste": True,
    },
}  # fmt: skip
PHOTO = world.render(world.sample_scene(world.rng_for("serving")), 80).image


def load_bases(checkpoints: Mapping[str, Path]) -> dict[str, Any]:
    cpu = torch.device("cpu")
    flux = FluxCheckpoint(path=str(checkpoints["flux"]), size=16, max_sequence_length=16)
    inpaint = Checkpoint(path=str(checkpoints["inpaint"]))
    return {
        "flux": FluxBackbone.load(flux, device=cpu),
        "inpaint": InpaintBackbone.load(inpaint, device=cpu),
    }


def make_package(
    folder: Path, backbone: Any, name: str, seed: int, *, base: str = "", **settings: Any
) -> Package:
    """An adapter with random weights, large enough to be seen."""
    kind, _, subject = name.partition(".")
    own = SETTINGS[kind] | settings
    method, generator = find(kind, own), torch.Generator().manual_seed(seed)
    method.attach(backbone)
    names = method.state(backbone)
    method.detach(backbone)
    folder.mkdir(parents=True)
    weights = {n: torch.randn(v.shape, generator=generator) for n, v in names.items()}
    save_file(weights, folder / WEIGHTS)
    of_subject = (
        {"class_word": "mug", "identifier": "sks red", "attributes": {"colour": ["red"]}}
        if subject
        else {"class_word": None, "identifier": None}
    )
    card = Card(
        method=kind, subject=subject or None, **of_subject,
        base=Base(path="tiny", revision=None, weights_digest=base or backbone.digest),
        data_digest="b" * 64, settings={"method": own}, seed=seed,
        weights_sha256=hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest(),
    )  # fmt: skip
    (folder / CARD).write_text(card.text())
    return Package.open(folder)


def make_store(folder: Path, bases: Mapping[str, Any]) -> Store:
    """mug-1: versions 1 (champion), 2, and 3 on another base; the others: version 1."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    store = Store.connect(uri)
    inpaint, flux = bases["inpaint"], bases["flux"]
    for seed, base in ((1, ""), (2, ""), (3, "c" * 64)):
        store.register(make_package(folder / f"mug{seed}", inpaint, MUG, seed, base=base), {})
    store.register(make_package(folder / "cup", inpaint, CUP, 7), {})
    store.register(make_package(folder / "eligen", flux, ELIGEN, 8), {})
    store.register(make_package(folder / "two", flux, TWO, 9), {})
    for name in (MUG, CUP, ELIGEN, TWO):
        store.client.set_registered_model_alias(name, CHAMPION, "1")
    return store


def make_params(folder: Path, checkpoints: Mapping[str, Path], **serving: Any) -> Params:
    file = folder / "params.yaml"
    tiny.write_params(file, dict(checkpoints))
    content = YAML(typ="safe", pure=True).load(file.read_text())
    content["serving"] |= {"methods": list(SETTINGS), "folder": str(folder / "served")}
    content["serving"] |= serving
    YAML().dump(content, file)
    return load(file)


def make_engine(params: Params, store: Store, bases: Mapping[str, Any]) -> Engine:
    own = params.serving
    folder = Path(own.folder)
    catalog = Catalog(
        lambda: store, folder, methods=frozenset(own.methods), follow_s=own.follow_s,
        prepare=lambda entry: shelf.get(entry),
    )  # fmt: skip
    shelf = Shelf(lambda: catalog.store, folder / "packages", mib=own.adapters_mib)
    return Engine(load=lambda: bases, catalog=catalog, shelf=shelf, vocabulary=VOCABULARY)


def make_service(params: Params, store: Store, bases: Mapping[str, Any], **more: Any) -> Service:
    return Service.of(params, make_engine(params, store, bases), **more)


class Designer:
    """Stands for a language model behind an address: two things, side by side."""

    name = "designer"

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def ask(self, questions: Sequence[Question]) -> list[BaseModel | Unanswered]:
        self.asked += questions
        things = [
            {"prompt": "a red mug", "x0": 0, "y0": 0, "x1": 500, "y1": 1000},
            {"prompt": "a blue cat", "x0": 500, "y0": 0, "x1": 1000, "y1": 1000},
        ]
        told = {"things": things, "prompt": "a red mug and a blue cat"}
        return [question.answer.model_validate(told) for question in questions]


def outside(box: tuple[int, int, int, int]) -> np.ndarray:
    """Of PHOTO, what is not in a box of pixels."""
    found = np.ones(PHOTO.shape[:2], bool)
    x0, y0, x1, y1 = box
    found[y0:y1, x0:x1] = False
    return found
