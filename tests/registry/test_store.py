"""Proves that adapters are registered once, promoted through the gate, and rolled back.

Needs MLflow with a SQLite file, no server and no checkpoint: any bytes stand for weights.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat
from mlflow import MlflowClient
from typer.testing import CliRunner

from insitu import cli
from insitu.cli import adapters as commands
from insitu.errors import UserError
from insitu.evaluation import gate
from insitu.evaluation.gate import Rule
from insitu.evaluation.measurement import Measured, Measurement
from insitu.registry import store as registry
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.server import Unreachable
from insitu.registry.signature import Keys
from insitu.registry.store import ARTIFACT, Entry, NotRegistered, Store
from tests import mlflow_file

RULES = {"dino": Rule(gain=0.0, margin=0.02)}


def figures(tuned: float) -> dict[str, Any]:
    return {"dino": {"tuned": {"value": tuned}, "untuned": {"value": 0.4}}}


GOOD, WORSE, BETTER = figures(0.6), figures(0.5), figures(0.59)


def measured(value: float, *, base: float = 0.4, scenes: int = 6) -> Measurement:
    """Every picture a little different, each better than the base's by the same."""
    noise = np.random.default_rng(0).normal(0, 0.001, (scenes, 2))
    rows = tuple(map(tuple, (value + noise).tolist()))
    plain = tuple(map(tuple, (base + 0 * noise).tolist()))
    return Measurement(
        benchmark={"scenes": scenes},
        metrics={"dino": Measured(higher_is_better=True, adapter=rows, base=plain)},
    )


def register(store: Store, package: Package, found: dict[str, Any]) -> Entry:
    """With figures and a measurement that say the same."""
    entry = store.register(package, found)
    made = measured(found["dino"]["tuned"]["value"])
    store.keep_measurement(entry, made.digest, made.model_dump_json())
    return store.entry(entry.name, entry.version)


def make_package(folder: Path, content: bytes, subject: str | None = "mug-1") -> Package:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(content)
    card = Card(
        method="dreammix", subject=subject, class_word="mug", identifier="sks",
        base=Base(path="models/x", revision=None, weights_digest="a" * 64), data_digest="b" * 64,
        settings={}, seed=0, weights_sha256=hashlib.sha256(content).hexdigest(),
    )  # fmt: skip
    (folder / CARD).write_text(card.text())
    return Package.open(folder)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An initialized database, which takes seconds to make."""
    return mlflow_file.make(tmp_path_factory.mktemp("mlflow"))


@pytest.fixture
def store(database: str) -> Store:
    store = Store.connect(database)
    for name in store.names():
        store.client.delete_registered_model(name)
    return store


@pytest.fixture
def packages(tmp_path: Path) -> list[Package]:
    return [make_package(tmp_path / str(i), bytes([i]) * 50) for i in range(3)]


def test_registering_again_changes_nothing_but_figures(
    store: Store, packages: list[Package]
) -> None:
    first = store.register(packages[0], GOOD)
    assert (first.name, first.version, first.aliases) == ("dreammix.mug-1", "1", ("candidate",))
    again = store.register(packages[0], BETTER)
    assert again.version == "1" and again.figures == BETTER and again.run_id == first.run_id
    second = store.register(packages[1], GOOD)
    assert second.version == "2" and second.aliases == ("candidate",)
    assert store.entry(first.name, "1").aliases == ()
    assert store.names() == ["dreammix.mug-1"]


def test_the_gate_decides_who_becomes_champion(store: Store, packages: list[Package]) -> None:
    name = register(store, packages[0], GOOD).name
    assert gate.promote(store, name, "candidate", RULES).passed
    assert store.entry(name, "champion").version == "1"
    register(store, packages[1], WORSE)
    verdict = gate.promote(store, name, "candidate", RULES)
    assert not verdict.passed and "-0.100" in verdict.reasons[-1] and "worse" in verdict.reasons[-1]
    assert store.entry(name, "champion").version == "1"
    assert store.entry(name, "2").judged is False
    register(store, packages[2], BETTER)
    assert gate.ask(store, name, "candidate", RULES).passed  # asked alone, nothing moves
    assert store.entry(name, "champion").version == "1"
    assert gate.promote(store, name, "candidate", RULES).passed
    assert store.entry(name, "champion").version == "3"
    assert store.rollback(name).version == "1"
    assert store.entry(name, "champion").version == "1"
    with pytest.raises(UserError, match="No version was champion before"):
        store.rollback(name)


def test_a_champion_of_another_benchmark_has_to_be_measured_first(
    store: Store, packages: list[Package]
) -> None:
    name = register(store, packages[0], GOOD).name
    gate.promote(store, name, "candidate", RULES)
    entry = store.register(packages[1], BETTER)
    with pytest.raises(UserError, match="not measured on a benchmark"):
        gate.promote(store, name, "candidate", RULES)
    other = measured(0.7, scenes=8)
    store.keep_measurement(entry, other.digest, other.model_dump_json())
    with pytest.raises(UserError, match=f"registry measure {name} 1"):
        gate.promote(store, name, "candidate", RULES)
    champion = measured(0.6, scenes=8)
    store.keep_measurement(store.entry(name, "1"), champion.digest, champion.model_dump_json())
    assert gate.promote(store, name, "candidate", RULES).passed


def test_a_damaged_package_does_not_become_champion(store: Store, packages: list[Package]) -> None:
    entry = register(store, packages[0], GOOD)
    kept = Path(store.client.get_run(entry.run_id).info.artifact_uri.removeprefix("file://"))
    (kept / ARTIFACT / WEIGHTS).write_bytes(b"exchanged")
    with pytest.raises(UserError, match="damaged or exchanged"):
        gate.promote(store, entry.name, "candidate", RULES)
    assert store.champion(entry.name) is None


def test_all_candidates_are_promoted_once_and_a_refusal_shows(
    store: Store, packages: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["registry", *words])
        return done.exit_code, done.stdout

    monkeypatch.setattr(commands, "store", lambda settings: store)
    assert run("promote") == (0, "There is no candidate.\n")
    name = register(store, packages[0], GOOD).name
    assert "not judged  candidate" in run("list")[1]
    status, said = run("judge")
    assert status == 0 and said.endswith(f"{name}: may be promoted\n")
    assert store.candidates() == [name]
    status, said = run("promote")
    assert status == 0 and said.endswith(f"{name}: promoted\n")
    assert store.candidates() == [] and run("promote")[0] == 0
    register(store, packages[1], WORSE)
    status, said = run("promote")
    assert status == 1 and said.endswith(f"{name}: not promoted\n")
    assert store.candidates() == [name] and store.entry(name, "champion").version == "1"
    said = run("list")[1]
    assert "dino 0.600  passed  champion" in said and "dino 0.500  refused  candidate" in said
    store.client.set_registered_model_alias(name, "champion", "2")
    assert "refused  candidate, champion (by hand)" in run("list")[1]


def test_more_subjects_than_a_page_has_are_all_found(
    store: Store, packages: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PAGE", 2)
    own = [f"dreammix.mug-{n}" for n in range(5)]
    for name in own:
        store.client.create_registered_model(name, {"method": "dreammix"})
    store.client.create_registered_model("somebody.elses")
    store.client.create_registered_model("uno", {"method": "uno"})
    assert store.names() == [*own, "uno"]
    name = store.register(packages[0], GOOD).name
    assert store.candidates() == [name] == own[1:2]
    store.client.delete_registered_model("somebody.elses")


def test_a_registered_package_comes_back_whole_or_not_at_all(
    store: Store, packages: list[Package], tmp_path: Path
) -> None:
    entry = store.register(packages[0], GOOD)
    back = store.fetch(entry, tmp_path / "back")
    assert back.digest == packages[0].digest
    assert back.weights.read_bytes() == packages[0].weights.read_bytes()
    kept = Path(store.client.get_run(entry.run_id).info.artifact_uri.removeprefix("file://"))
    (kept / ARTIFACT / WEIGHTS).write_bytes(b"exchanged")
    with pytest.raises(UserError, match="damaged or exchanged"):
        store.fetch(entry, tmp_path / "again")


def test_a_version_is_shown_exported_and_verified(
    store: Store, packages: list[Package], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["registry", *words])
        return done.exit_code, done.stdout

    monkeypatch.setattr(commands, "store", lambda settings: store)
    entry = store.register(packages[0], GOOD, {"subjects": "abc"})
    register(store, packages[0], GOOD)
    gate.promote(store, entry.name, "candidate", RULES)
    status, said = run("show", "mug-1")
    told = json.loads(said)
    assert status == 0 and (told["version"], told["digest"]) == ("1", packages[0].digest)
    assert told["aliases"] == ["champion"] and told["data"] == {"subjects": "abc"}
    assert told["gate"]["passed"] and told["run"].endswith(entry.run_id)
    assert run("show", entry.name, "1") == (status, said)

    out = tmp_path / "out"
    assert run("export", "mug-1", str(out))[0] == 0
    assert Package.open(out).digest == packages[0].digest
    page = (out / "README.md").read_text()
    assert page.startswith("---\nbase_model: models/x\n") and packages[0].digest in page
    assert "| dino | 0.600 | 0.400 |" in page and "insitu place mug-1" in page
    assert run("export", "mug-1", str(out))[0] == 2  # there already

    assert run("verify") == (0, "1 verified, 0 damaged\n")
    kept = Path(store.client.get_run(entry.run_id).info.artifact_uri.removeprefix("file://"))
    (kept / ARTIFACT / WEIGHTS).write_bytes(b"exchanged")
    store.register(packages[1], GOOD)
    status, said = run("verify", "mug-1")
    assert status == 1 and "damaged or exchanged" in said
    assert said.endswith("2 verified, 1 damaged\n")
    shutil.rmtree(kept / ARTIFACT)
    with pytest.raises(UserError, match="cannot be had"):
        store.fetch(entry, tmp_path / "gone")


def test_what_is_not_there_is_said(store: Store, packages: list[Package]) -> None:
    with pytest.raises(UserError, match="there are: none"):
        store.entry("dreammix.mug-1", "champion")
    name = store.register(packages[0], GOOD).name
    with pytest.raises(UserError, match=r"there are: 1 \(candidate\)"):
        store.entry(name, "champion")


def test_a_method_is_registered_under_its_own_name(store: Store, tmp_path: Path) -> None:
    package = make_package(tmp_path / "own", b"weights", subject=None)
    entry = store.register(package, GOOD)
    assert entry.name == "dreammix" and store.names() == ["dreammix"]
    assert store.aliases() == {"dreammix": {"candidate": "1"}}
    assert store.resolve("dreammix", "candidate").digest == package.digest
    with pytest.raises(NotRegistered):
        store.resolve("dreammix", "champion")
    with pytest.raises(NotRegistered):
        store.resolve("dreammix", "9")


def test_packages_are_signed_and_others_are_refused(
    database: str, packages: list[Package], tmp_path: Path
) -> None:
    own, foreign = (make_keys(tmp_path / name) for name in ("own", "foreign"))
    signing = Store.connect(database, Keys(private=own[0], public=own[1]))
    for name in signing.names():
        signing.client.delete_registered_model(name)
    entry = signing.register(packages[0], GOOD)
    assert signing.fetch(entry, tmp_path / "a").digest == packages[0].digest
    other = Store.connect(database, Keys(public=foreign[1]))
    with pytest.raises(UserError, match="not one of"):
        other.fetch(entry, tmp_path / "b")
    plain = Store.connect(database)
    unsigned = plain.register(packages[1], GOOD)
    with pytest.raises(UserError, match=r"no model\.sig"):
        signing.fetch(unsigned, tmp_path / "c")
    signing.register(packages[1], GOOD)  # again, now signed
    assert signing.fetch(unsigned, tmp_path / "d").digest == packages[1].digest
    with pytest.raises(UserError, match="private elliptic key"):
        Store.connect(database, Keys(private=own[1])).register(packages[2], GOOD)


def make_keys(path: Path) -> tuple[Path, Path]:
    """A private and a public key in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = path.with_suffix(".pem"), path.with_suffix(".pub")
    private.write_bytes(
        key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_server_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="does not answer"):
        Store.connect("http://127.0.0.1:9")


def test_packages_are_kept_on_s3_where_pickles_are_forbidden(
    packages: list[Package], tmp_path: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", object_store)
    boto3.client("s3").create_bucket(Bucket="adapters")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    MlflowClient(uri).create_experiment("insitu", artifact_location="s3://adapters/insitu")
    store = Store.connect(uri)
    entry = register(store, packages[0], GOOD)
    assert store.fetch(entry, tmp_path / "back").digest == packages[0].digest
    assert gate.promote(store, entry.name, "candidate", RULES).passed
    keys = boto3.client("s3").list_objects_v2(Bucket="adapters")["Contents"]
    names = {item["Key"].rpartition("/")[2] for item in keys}
    assert {WEIGHTS, CARD, f"{entry.benchmark}.json"} <= names
    for item in keys:
        boto3.client("s3").delete_object(Bucket="adapters", Key=item["Key"])
    with pytest.raises(Unreachable, match="cannot be had"):
        store.fetch(entry, tmp_path / "gone")
