"""Proves that tuning, stopped and called again, publishes the very package of a run that was not;
that a finished one is another run; and that a work folder has one holder.

Needs no trained checkpoint.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger
from safetensors.torch import load_file

from insitu.backbones.loading import base_digest
from insitu.errors import UserError
from insitu.methods import find
from insitu.params import Checkpoint
from insitu.registry.package import Base
from insitu.training import start
from insitu.training.checkpoint_io import SafetensorsIO
from insitu.training.recipe import Devices, Watch
from insitu.training.tune import Setup, Source, Subject, input_digest, tune
from insitu.work import work_folder
from tests.training.runs import (
    FACTS,
    METHOD,
    RECIPE,
    SETTINGS,
    base,
    encoded,
    load,
    request,
    stopping_at,
)

__all__ = ["base", "encoded"]


def make(base: str, encoded: Path, **changed: object) -> tuple[Source, Setup]:
    backbone = load(base)
    digest = base_digest(Checkpoint(path=base))
    source = Source(
        subject=Subject(name="a", class_word="mug", identifier="sks", attributes={}),
        encoded=encoded, facts=FACTS, requests=[request()],
    )  # fmt: skip
    values = {
        "method": METHOD, "precision": {"dtype": "float32"}, "device": "cpu",
        "base": Base(path=base, revision=None, weights_digest=digest),
        "recipe": replace(RECIPE, steps=7), "devices": Devices(),
        "watch": Watch(validate=4, save=2), "backbone": lambda: backbone,
    } | changed  # fmt: skip
    return source, Setup(**values)


def test_a_stopped_one_continues_to_the_same_package(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    source, setup = make(base, encoded)
    whole = tune(source, tmp_path / "whole", setup, root=tmp_path / "a")
    with stopping_at(5):
        tune(source, tmp_path / "torn", setup, root=tmp_path / "b")
    assert not (tmp_path / "torn").exists()
    with stopping_at(6):  # from step 4, where it was saved
        tune(source, tmp_path / "torn", setup, root=tmp_path / "b")
    torn = tune(source, tmp_path / "torn", setup, root=tmp_path / "b")
    assert torn.digest == whole.digest
    curves = [(p.folder / "validation.jsonl").read_text() for p in (torn, whole)]
    assert curves[0] == curves[1]
    assert [json.loads(line)["step"] for line in curves[0].splitlines()] == [0, 4]
    assert torn.run()["input_digest"] == input_digest(source, setup)


def test_what_decides_an_adapter_is_in_its_digest_and_nothing_else(
    base: str, encoded: Path
) -> None:
    source, setup = make(base, encoded)
    known = input_digest(source, setup)
    for same in (
        replace(setup, watch=Watch(validate=1, save=1)),
        replace(setup, devices=Devices(count=2, strategy="fsdp", accumulate=2)),
    ):
        assert input_digest(source, same) == known
    others = [
        input_digest(replace(source, facts={"photos": "q"}), setup),
        input_digest(source, replace(setup, recipe=replace(RECIPE, steps=8))),
        input_digest(source, replace(setup, method=find("dreammix", SETTINGS | {"rank": 3}))),
        input_digest(source, replace(setup, precision={"dtype": "float32", "quantize": "nf4"})),
    ]
    assert len({known, *others}) == 5


def test_a_training_starts_from_another_adapter(base: str, encoded: Path, tmp_path: Path) -> None:
    """With a rate near 0 it ends where it started, and the card names what that was."""
    source, setup = make(base, encoded)
    first = tune(source, tmp_path / "first", setup, root=tmp_path / "a")
    found = start.require(first.folder, "dreammix", setup.base.weights_digest)
    still = replace(RECIPE, steps=2, optimizer=replace(RECIPE.optimizer, lr=1e-12), seed=9)
    again = replace(setup, start=found, recipe=still)
    second = tune(source, tmp_path / "second", again, root=tmp_path / "a")
    assert input_digest(source, again) != input_digest(source, replace(again, start=None))
    assert second.card.settings["start"] == first.digest
    weights, other = load_file(first.weights), load_file(second.weights)
    assert all(torch.allclose(weights[name], other[name], atol=1e-7) for name in weights)


def test_an_adapter_with_fewer_parts_starts_with_those(base: str) -> None:
    backbone = load(base)
    METHOD.attach(backbone)
    whole = {name: torch.ones_like(value) for name, value in METHOD.state(backbone).items()}
    METHOD.detach(backbone)
    part = find("dreammix", SETTINGS | {"targets": ["to_k"]})
    part.attach(backbone)
    try:
        start.begin(part, backbone, whole)
        assert all((value == 1).all() for value in part.state(backbone).values())
        with pytest.raises(UserError, match="None of them is a part"):
            start.begin(part, backbone, {"unet.elsewhere": torch.ones(1)})
        wrong = {name: value[:1] for name, value in whole.items()}
        with pytest.raises(UserError, match="same ranks"):
            start.begin(part, backbone, wrong)
    finally:
        part.detach(backbone)


def test_a_start_of_another_method_or_base_is_refused(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    source, setup = make(base, encoded)
    found = tune(source, tmp_path / "found", setup, root=tmp_path / "a")
    with pytest.raises(UserError, match="adapter of dreammix"):
        start.require(found.folder, "eligen", setup.base.weights_digest)
    with pytest.raises(UserError, match="base"):
        start.require(found.folder, "dreammix", "0" * 64)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    io, path = SafetensorsIO(), tmp_path / "a" / "last.ckpt"
    tree = {
        "state_dict": {"w": torch.randn(3, 2), "n": torch.tensor(7)},
        "list": [1, 2.5, None, True, "x", (1, "y"), [], {}],
        0: {"inf": float("inf"), "path": Path("a/b"), "step": torch.tensor(3.0)},
    }
    io.save_checkpoint(tree, path)
    back = io.load_checkpoint(path)
    assert torch.equal(back["state_dict"]["w"], tree["state_dict"]["w"])
    assert back["list"] == tree["list"] and isinstance(back["list"][5], tuple)
    assert back[0]["inf"] == float("inf") and back[0]["path"] == Path("a/b")
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    with pytest.raises(TypeError, match="DummyLogger"):
        io.save_checkpoint({"logger": DummyLogger()}, path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not one of ours"):
        io.load_checkpoint(path)


def test_a_work_folder_has_one_holder_at_a_time(tmp_path: Path) -> None:
    with work_folder("tune", "a" * 64, root=tmp_path) as folder:
        (folder / "half").write_text("done")
        with (
            pytest.raises(UserError, match="Another process"),
            work_folder("tune", "a" * 64, root=tmp_path),
        ):
            pass
        with work_folder("tune", "b" * 64, root=tmp_path) as other:
            assert other != folder
    with work_folder("tune", "a" * 64, root=tmp_path) as again:
        assert (again / "half").read_text() == "done"


def test_a_training_that_nobody_looks_at_ends_with_the_same_weights(
    base: str, encoded: Path, tmp_path: Path
) -> None:
    source, setup = make(base, encoded)
    seen = tune(source, tmp_path / "seen", setup, root=tmp_path / "a")
    unseen = replace(setup, watch=Watch(validate=None, save=2, plan=False))
    found = tune(source, tmp_path / "unseen", unseen, root=tmp_path / "b")
    assert found.digest == seen.digest
    assert (found.folder / "validation.jsonl").read_text() == ""
