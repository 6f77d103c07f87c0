"""Proves that every method that learns from data sets goes from rows to an adapter and to a page,
by the commands of its stages, and that what is finished is kept.

The base is a tiny random one of the real class, what judges are the nano checkpoints; rows are few.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from ruamel.yaml import YAML

from insitu import world
from insitu.errors import UserError
from insitu.evaluation import gate
from insitu.evaluation.trained import MEASURES
from insitu.methods import data_of
from insitu.params import load
from insitu.records import Box, Image, ShardWriter
from insitu.records.engines import (
    BoundId,
    Entity,
    EntityPicture,
    Lineage,
    Pair,
    Quadruple,
    Reference,
)
from insitu.registry.package import Package
from insitu.registry.store import Store
from pipelines import (
    _methods,
    _step,
    _training,
    _uno,
    measure,
    prepare,
    register,
    remeasure,
    train,
)
from tests.methods.test_anyphoto_data import bank_face, group
from tests.tiny import write_params

NANO = Path(__file__).resolve().parents[2] / "models" / "nano"
SPLITS = ("train", "train", "validation", "test")
NOTHING = Lineage(sources=("test",), models=())
LEFT, RIGHT = Box(x0=0, y0=0.2, x1=0.5, y1=1), Box(x0=0.5, y0=0.2, x1=1, y1=1)


def pictures(n: int) -> tuple[Image, list[world.Subject], list[Image]]:
    """A scene, its two subjects and a photo of each."""
    rng = world.rng_for("test", "rows", n)
    things = [world.sample_subject(rng, category=kind) for kind in ("mug", "cat")]
    scene = world.render(world.sample_scene(rng, things=things, style="photo"), 64).image
    photos = [Image.from_array(world.portrait(thing, rng, 64).image) for thing in things]
    return Image.from_array(scene), things, photos


def bound(n: int, split: str) -> BoundId:
    image, things, photos = pictures(n)
    references = tuple(
        Reference(
            identity=f"{split}-{n}-{k}", category=thing.category, description=f"a {thing.category}",
            image=photo, box=LEFT, other=photo, other_box=LEFT,
        )
        for k, (thing, photo) in enumerate(zip(things, photos, strict=True))
    )  # fmt: skip
    return BoundId(
        id=f"pair-{n}", image=image, masked=image, references=references, boxes=(LEFT, RIGHT),
        found=(LEFT, RIGHT), prompt="a mug and a cat on the grass", split=split, findings=(),
        quality=5.0, faults=None, lineage=NOTHING,
    )  # fmt: skip


def entities(n: int, split: str) -> EntityPicture:
    words = (("mug", LEFT), ("cat", RIGHT))
    return EntityPicture(
        id=f"entity-{n}", image=pictures(n)[0], asked="a mug and a cat", prompt="a mug and a cat",
        entities=tuple(Entity(word=w, prompt=f"a {w}", box=box) for w, box in words), split=split,
        lineage=NOTHING,
    )  # fmt: skip


def quadruple(n: int, split: str) -> Quadruple:
    image, things, photos = pictures(n)
    mask = np.zeros((64, 64, 3), np.uint8)
    mask[20:60, 4:28] = 255
    return Quadruple(
        id=f"still-{n}/0", image=image, mask=Image.from_array(mask), box=LEFT, subject=photos[0],
        text=f"a red {things[0].category}", global_text="a mug and a cat", tag="mug", area=0.2,
        agreement=0.9, split=split, lineage=NOTHING,
    )  # fmt: skip


def write(folder: Path, rows: list[Any]) -> None:
    writer: ShardWriter[Any] = ShardWriter(folder, type(rows[0]), "inputs")
    with writer.shard(0) as shard:
        for row in rows:
            shard.keep(row)
    writer.finish(1)


@pytest.fixture(scope="module")
def project(checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and settings; in the latter as little of everything as goes."""
    root = tmp_path_factory.mktemp("trained")
    write(root / "data/boundid", [bound(n, split) for n, split in enumerate(SPLITS)])
    write(root / "data/entities", [entities(n, split) for n, split in enumerate(SPLITS)])
    write(root / "data/quadruples", [quadruple(n, split) for n, split in enumerate(SPLITS)])
    write(root / "data/groups", [group(n) for n in range(12)])
    write(root / "data/faces", [bank_face(k, view) for k in range(12) for view in range(2)])
    judges = {name: NANO / name for name in ("clip", "dino", "detector", "face")}
    write_params(root / "params.yaml", checkpoints | judges)
    yaml = YAML()
    content = yaml.load((root / "params.yaml").read_text())
    content["models"]["flux"] |= {"size": 32, "max_sequence_length": 16}
    content["measure"] |= {"requests": 2, "seeds": 2}
    content["anyphoto"] |= {"patch": 16}
    few = {"steps": 2, "batch": 2, "validate_every": 2, "save_every": 2}
    for name in MEASURES:
        content[name]["train"] |= few
        content[name]["train"]["schedule"] |= {"warmup": 0}
        content[name]["steps"] = 2
    yaml.dump(content, root / "params.yaml")
    return root


@pytest.fixture
def within(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project as working folder, with MLflow's store in a file of it."""
    monkeypatch.chdir(project)
    connect, uri = Store.connect, f"sqlite:///{project / 'mlflow.db'}"
    client = MlflowClient(uri)
    if client.get_experiment_by_name("insitu") is None:
        client.create_experiment("insitu", artifact_location=(project / "kept").as_uri())
    monkeypatch.setattr(Store, "connect", lambda *_: connect(uri))
    return project


def run(stage: Any, name: str) -> None:
    assert _step.run(lambda params, report: stage.main(params, report, name)) == 0


@pytest.mark.parametrize("name", MEASURES)
def test_rows_become_an_adapter_and_a_page(
    name: str, within: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(prepare, name)
    run(train, name)
    first = Package.open(within / "data/trained" / name)
    capsys.readouterr()
    run(prepare, name)
    run(train, name)
    assert capsys.readouterr().out.count(f"{name}: unchanged") == 2
    assert Package.open(within / "data/trained" / name).run() == first.run()
    run(measure, name)
    told = json.loads((within / "reports/trained" / f"{name}.json").read_text())
    assert tuple(told) == MEASURES[name]
    assert {"trained", "untrained", "difference"} == set(told[MEASURES[name][0]])
    table = (within / "reports/trained" / name / "scores.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * told[MEASURES[name][0]]["trained"]["n"]
    assert (within / "reports/trained" / name / "index.html").is_file()
    run(register, name)
    receipt = json.loads((within / "data/registered" / f"{name}.json").read_text())
    assert receipt == {name: first.digest}
    store = Store.connect("")
    entry = store.entry(name, "candidate")
    kept = gate.measurement(store, entry)
    assert set(kept.metrics) == set(MEASURES[name]) and kept.digest == entry.benchmark
    rules = getattr(load(within / "params.yaml").registry.gate, name)
    asked = {metric: gate.Rule(gain=-1.0, margin=rule.margin) for metric, rule in rules.items()}
    assert gate.promote(store, name, "candidate", asked).passed
    assert remeasure.measure(load(within / "params.yaml"), first) == kept


def test_held_out_rows_are_asked_for_and_never_learned_from(within: Path) -> None:
    params = load(within / "params.yaml")
    for name in MEASURES:
        learned = list(_methods.examples(params, name))
        asked = _methods.requests(params, name, ("test",), 9)
        assert learned and asked
        assert not any(
            np.array_equal(example.image, request.image) for example in learned for request in asked
        )


OTHERWISE = {
    "steps": 3, "guidance_scale": 7.0, "rank": 3, "adapters": "unified", "shifted": False,
    "placed": False, "group": "self", "isolated": False, "modulated": False, "face_weight": 0.5,
    "replacement": 0.1, "assign": False, "refine": False, "beta": 0.9, "main": "none", "tokens": 3,
    "fuse": "off", "paste": False, "feed_forward": True, "acting": "all", "passes": "each",
    "first_stage": 0.2, "identity_rank": 3, "inpaint_rank": 3, "frequencies": 3, "depth": 1,
}  # fmt: skip
"""Settings that are said to decide nothing of what is encoded, each with another value."""


@pytest.mark.parametrize("name", MEASURES)
def test_settings_that_are_not_named_decide_nothing_of_what_is_encoded(
    name: str, within: Path
) -> None:
    params = load(within / "params.yaml")
    settings, _ = params.learned(name)
    own = {k: v for k, v in OTHERWISE.items() if k in settings and k not in data_of(name).ENCODED}
    own |= {"assign": True} if "main" in own else {}  # something of lar_gen has to learn
    group = getattr(params, name).model_copy(update=own)
    other = params.model_copy(update={name: group})
    assert own and _methods.facts(other, name) == _methods.facts(params, name)
    backbone = _training.load(params, name)
    told = []
    for each in (params, other):
        method = _methods.method(each, name)
        examples = list(_methods.examples(each, name))
        assert [e.prompt for e in examples] == [e.prompt for e in _methods.examples(params, name)]
        told.append(method.condition(backbone, examples))
    assert all(torch.equal(told[0][key], told[1][key]) for key in told[0])
    assert told[0].keys() == told[1].keys()


def test_data_without_held_out_rows_are_refused(within: Path) -> None:
    with pytest.raises(UserError, match="No row is of the split other"):
        _methods.requests(load(within / "params.yaml"), "eligen", ("other",), 9)


def test_uno_draws_candidates_from_the_references_of_pairs(within: Path) -> None:
    """With the adapter of its own training, the same again, and by a name that pins its weights."""
    run(prepare, "uno")
    run(train, "uno")
    params = load(within / "params.yaml")
    row = bound(7, "train")
    pair = Pair(
        id="p", references=row.references, prompt=row.prompt, split="train", seed=3, lineage=NOTHING
    )
    generator = _uno.UnoGenerator(params)
    assert generator.name == _uno.name(params)
    assert Package.open(within / "data/trained/uno").digest[:12] in generator.name
    (drawn,), (again,) = generator.draw([pair]), generator.draw([pair])
    assert drawn.image.shape == (params.candidates.size,) * 2 + (3,) and drawn.faults is None
    assert (drawn.image == again.image).all()
    (other,) = generator.draw([replace(pair, references=row.references[::-1])])
    assert (drawn.image != other.image).any()
