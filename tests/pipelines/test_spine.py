"""Proves the chain from photos to candidates: subjects, adapters, evaluation, registration.

Needs no trained weights: the checkpoints are tiny random ones of the real classes, MLflow a SQLite
file instead of a server.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from PIL import Image as Pillow
from safetensors.torch import load_file

from insitu import world
from insitu.errors import UserError
from insitu.evaluation import gate
from insitu.evaluation.measurement import Measurement
from insitu.params import Params, load
from insitu.params.spine import Painting
from insitu.records import read
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import WEIGHTS, Package
from insitu.registry.store import Store
from insitu.serving.service import make
from pipelines import (
    _paths,
    adapters,
    attributes,
    encode,
    evaluate,
    register,
    regularization,
    remeasure,
    subjects,
)
from tests.tiny import write_params

ROOT = Path(__file__).parents[2]
METRICS = {
    "dino", "clip_i", "clip_t", "found", "location_error", "background_mean",
    "background_largest", "seam",
}  # fmt: skip
told: Callable[[dict[str, Any]], None] = lambda facts: None  # noqa: E731


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("spine")


@pytest.fixture(scope="module")
def params(checkpoints: dict[str, Path], folder: Path) -> Params:
    file = folder / "params.yaml"
    write_params(file, checkpoints)
    return load(file)


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[Store]:
    """What every step reaches instead of the server."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location=(folder / "kept").as_uri())
    store = Store.connect(uri)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "connect", lambda *_: store)
        yield store


@pytest.fixture(scope="module")
def chain(params: Params, folder: Path, store: Store) -> Path:
    """The folder after subjects (one drawn, one of a user), adapters, evaluation, registration."""
    own = folder / "subjects" / "my-mug"
    own.mkdir(parents=True)
    (own / "subject.yaml").write_text("class: mug\n")
    mug = world.sample_subject(world.rng_for("chain"), category="mug")
    for view in range(2):
        photo = world.portrait(mug, world.rng_for("chain", view), 80).image
        photo = photo[: 80 - 16 * view]  # photos need not be of one size
        Pillow.fromarray(photo).save(own / f"{view}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        subjects.main(params, told)
        attributes.main(params, told)
        regularization.main(params, told)
        encode.main(params, told)
        adapters.main(params, told)
        evaluate.main(params, told)
        register.main(params, told, "dreammix")
    return folder


def test_every_subject_has_photos_an_adapter_and_pictures(chain: Path) -> None:
    names = sorted(path.name for path in (chain / _paths.SUBJECTS).iterdir())
    assert "my-mug" in names and len(names) == 2
    assert sorted(json.loads((chain / _paths.MANIFEST).read_text())) == names
    for name in names:
        photos = list(read(chain / _paths.SUBJECTS / name, SubjectPhoto))
        package = Package.open(chain / _paths.ADAPTERS / name)
        assert len(photos) == 2 and photos[0].class_word in photos[0].description
        assert (package.card.subject, package.card.class_word) == (name, photos[0].class_word)
        # What serving asks for is what was trained on.
        assert str(package.card.identifier).split() == ["same", *photos[0].attributes]
    page = (chain / _paths.TUNED_PAGE / "index.html").read_text()
    assert all(name in page for name in names)
    assert len(list((chain / _paths.TUNED_PAGE / "pictures").iterdir())) >= 2 * 2 * 3
    figures = json.loads((chain / _paths.METRICS).read_text())
    assert set(figures) == METRICS
    for figure in figures.values():
        assert figure["difference"]["low"] <= figure["difference"]["value"]
        assert figure["tuned"]["n"] == 2 * 2 * 1
        assert set(figure["tuned"]) == {"value", "low", "high", "n", "failed"}


def test_plots_have_every_picture_and_every_validation(chain: Path) -> None:
    with (chain / _paths.PLOTS / "dino.csv").open() as file:
        pictures = list(csv.DictReader(file))
    figures = json.loads((chain / _paths.METRICS).read_text())["dino"]
    assert len(pictures) == figures["tuned"]["n"]
    for way in ("tuned", "untuned"):
        mean = sum(float(row[way]) for row in pictures) / len(pictures)
        assert mean == pytest.approx(figures[way]["value"], abs=2e-4)
    with (chain / _paths.PLOTS / "validation.csv").open() as file:
        losses = list(csv.DictReader(file))
    assert {(row["subject"], row["step"]) for row in losses} == {
        (row["subject"], step) for row in pictures for step in ("0", "2")
    }
    with Pillow.open(chain / _paths.OVERVIEW) as overview:
        # A row a subject; a photo, then untuned and tuned in both places.
        assert overview.width > 2 * overview.height
        assert np.asarray(overview.convert("L"))[:, -100:].std() > 10  # no empty column


def test_the_plots_templates_show_columns_that_are_written(chain: Path) -> None:
    plots = yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    drawn = [plot for entry in plots if isinstance(entry, dict) for plot in entry.values()]
    assert len(drawn) == 2
    for plot in drawn:
        template = (ROOT / ".dvc" / "plots" / f"{plot['template']}.json").read_text()
        assert json.loads(template)["data"] == {"values": "<DVC_METRIC_DATA>"}
        ((table, y),) = plot["y"].items()
        with (chain / table).open() as file:
            columns = csv.DictReader(file).fieldnames or ()
        assert {"subject", plot["x"], y} <= {*columns} and '"field": "subject"' in template


def test_a_registered_adapter_is_the_product_of_its_run(chain: Path, store: Store) -> None:
    receipt = (chain / _paths.REGISTERED / "dreammix.json").read_text()
    assert store.names() == sorted(json.loads(receipt))
    entry = store.entry("dreammix.my-mug", "candidate")
    assert entry.digest == Package.open(chain / _paths.ADAPTERS / "my-mug").digest
    assert set(entry.figures) == METRICS
    run = store.client.get_run(entry.run_id)
    assert run.info.status == "FINISHED" and run.data.tags["subject"] == "my-mug"
    assert run.data.params["plan.steps"] == "3" and run.data.params["method.rank"] == "2"
    losses = store.client.get_metric_history(entry.run_id, "validation_loss")
    assert [metric.step for metric in losses] == [2]
    pictures = [file.path for file in store.client.list_artifacts(entry.run_id, "pictures")]
    assert pictures == ["pictures/step-000002.png"]


def test_a_registered_version_is_measured_again_to_the_same_numbers(
    chain: Path, params: Params, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain)
    entry = store.entry("dreammix.my-mug", "candidate")
    before = store.measurement(entry, entry.benchmark)
    assert before is not None and set(Measurement.read(before, "").metrics) == METRICS
    store.client.delete_model_version_tag(entry.name, entry.version, "benchmark")
    remeasure.main(params, told, entry.name, "candidate")
    again = store.entry(entry.name, "candidate")
    assert again.benchmark == entry.benchmark
    assert store.measurement(again, again.benchmark) == before
    verdict = gate.ask(store, entry.name, "candidate", {"dino": gate.Rule(gain=-1.0, margin=None)})
    assert verdict.passed and store.entry(entry.name, "1").judged
    other = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"scenes": 3})})
    remeasure.main(other, told, entry.name, "candidate")
    assert store.entry(entry.name, "candidate").benchmark != entry.benchmark


def test_registering_again_makes_no_second_version(
    chain: Path, params: Params, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain)
    register.main(params, told, "dreammix")
    assert [entry.version for entry in store.versions("dreammix.my-mug")] == ["1"]


def state(chain: Path) -> dict[str, tuple[int, str]]:
    packages = [p for p in (chain / _paths.ADAPTERS).iterdir() if p.is_dir()]
    return {p.name: ((p / WEIGHTS).stat().st_mtime_ns, Package.open(p).digest) for p in packages}


def test_regularization_pictures_are_of_the_class_and_say_where_they_come_from(
    chain: Path, params: Params
) -> None:
    words = {w for own in params.subjects.attributes.model_dump().values() for w in own}
    dictionary = json.loads((chain / _paths.ATTRIBUTES).read_text())
    for folder in (chain / _paths.REGULARIZATION).iterdir():
        rows = list(read(folder, RegularPhoto))
        assert len(rows) == params.regularization.images == 2
        for row in rows:
            assert row.class_word in row.prompt and set(row.attributes) <= words
            assert row.image.array().shape[:2] == row.mask.array().shape[:2]
            assert row.lineage.sources[0].startswith(f"{folder.name}/") and row.lineage.models
        assert set(dictionary[folder.name]) <= {"colour", "pattern", "material"}


def test_finished_subjects_are_kept_and_a_damaged_one_is_made_again(
    chain: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(chain)
    before = state(chain)
    adapters.main(params, told)
    assert state(chain) == before
    weights = chain / _paths.ADAPTERS / "my-mug" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    adapters.main(params, told, ["my-mug"])
    after = state(chain)
    assert {name: digest for name, (_, digest) in after.items()} == {
        name: digest for name, (_, digest) in before.items()
    }
    assert [name for name in after if after[name][0] != before[name][0]] == ["my-mug"]


def test_one_that_fails_keeps_no_other_from_being_tuned(
    chain: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(chain)
    names = sorted(state(chain))
    before = state(chain)
    broken, whole = names
    lost = chain / _paths.ENCODED / "subjects" / broken
    for name in names:  # both have to be tuned again
        (chain / _paths.ADAPTERS / name / WEIGHTS).write_bytes(b"damaged")
    lost.rename(lost.with_name("away"))
    try:
        with pytest.raises(UserError, match=f"1 of them failed: {broken}"):
            adapters.main(params, told, names)
    finally:
        lost.with_name("away").rename(lost)
    assert f"{broken}: failed" in capsys.readouterr().err
    assert Package.open(chain / _paths.ADAPTERS / whole).digest == before[whole][1]
    adapters.main(params, told, names)
    assert {name: digest for name, (_, digest) in state(chain).items()} == {
        name: digest for name, (_, digest) in before.items()
    }


def test_tuned_side_by_side_they_are_what_they_are_one_after_the_other(
    chain: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chain, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    for name in state(copy):
        (copy / _paths.ADAPTERS / name / WEIGHTS).write_bytes(b"damaged")
    tune = params.tune.model_copy(update={"workers": 2})
    adapters.main(params.model_copy(update={"tune": tune}), told)
    assert {name: digest for name, (_, digest) in state(copy).items()} == {
        name: digest for name, (_, digest) in state(chain).items()
    }


def test_a_subject_that_is_gone_is_pruned(
    chain: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chain, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    shutil.rmtree(copy / "subjects" / "my-mug")
    subjects.main(params, told)
    attributes.main(params, told)
    regularization.main(params, told)
    encode.main(params, told)
    adapters.main(params, told)
    assert not (copy / _paths.ENCODED / "subjects" / "my-mug").exists()
    assert "my-mug" not in state(copy) and len(state(copy)) == 1
    assert not (copy / _paths.REGULARIZATION / "my-mug").exists()
    with pytest.raises(UserError, match="no photos of it"):
        adapters.main(params, told, ["my-mug"])


def test_a_subject_is_encoded_for_and_tuned_on_in_the_asked_dtype(
    chain: Path, params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(chain, tmp_path / "copy"))
    monkeypatch.chdir(copy)
    half = params.model_copy(update={"dtype": "bfloat16"})
    with pytest.raises(UserError, match="format was float32, is bfloat16"):
        adapters.main(half, told, ["my-mug"])
    assert state(copy) == state(chain)
    encode.main(half, told, "my-mug")
    adapters.main(half, told, ["my-mug"])
    package = Package.open(copy / _paths.ADAPTERS / "my-mug")
    assert package.card.settings["precision"]["dtype"] == "bfloat16"
    assert package.digest != state(chain)["my-mug"][1]
    weights = load_file(package.weights)
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in weights.values())
    with pytest.raises(UserError, match="format was bfloat16, is float32"):
        adapters.main(params, told, ["my-mug"])


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        # The dtype has changed for both, so that there is something to paint.
        ({"dtype": "bfloat16", "painting": Painting(offload="leaf", text=False)}, "save nothing"),
        ({"dtype": "float16"}, "overflows"),
    ],
)
def test_what_only_paints_holds_the_base_as_asked(
    chain: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    why: str,
) -> None:
    """Each refuses what cannot be had on a CPU, before it has painted."""
    monkeypatch.chdir(chain)
    for paint in (regularization.main, evaluate.main, lambda params, _: make(params)):
        with pytest.raises(UserError, match=why):
            paint(params.model_copy(update=changed), told)


def test_no_subject_at_all_is_refused_and_nothing_written(
    params: Params, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    none = params.model_copy(update={"subjects": params.subjects.model_copy(update={"drawn": 0})})
    with pytest.raises(UserError, match="no subject to tune on"):
        subjects.main(none, told)
    assert list(tmp_path.iterdir()) == []
