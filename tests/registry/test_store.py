"""Proves that adapters are registered once, promoted through the gate, and rolled back.

Needs MLflow with a SQLite file, no server and no checkpoint: any bytes stand for weights.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from insitu import cli
from insitu.cli import adapters as commands
from insitu.errors import UserError
from insitu.registry import store as registry
from insitu.registry.gate import Thresholds, decide
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package
from insitu.registry.store import ARTIFACT, Store
from tests import mlflow_file

ASKED = Thresholds(gain=0.0, margin=0.02)


def figures(tuned: float, low: float) -> dict[str, Any]:
    flat = {"value": tuned, "low": tuned, "high": tuned}
    gain = {"value": low + 0.1, "low": low, "high": low + 0.2}
    return {"dino": {"tuned": flat, "untuned": flat, "difference": gain}}


GOOD, WORSE, BETTER = figures(0.6, 0.05), figures(0.5, 0.05), figures(0.59, 0.04)


def make_package(folder: Path, content: bytes) -> Package:
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(content)
    card = Card(
        method="dreammix", subject="mug-1", class_word="mug", identifier="sks",
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
    name = store.register(packages[0], GOOD).name
    assert store.promote(name, "candidate", ASKED).passed
    assert store.entry(name, "champion").version == "1"
    store.register(packages[1], WORSE)
    verdict = store.promote(name, "candidate", ASKED)
    assert not verdict.passed and any("not met" in reason for reason in verdict.reasons)
    assert store.entry(name, "champion").version == "1"
    store.register(packages[2], BETTER)
    assert store.promote(name, "candidate", ASKED).passed
    assert store.entry(name, "champion").version == "3"
    assert store.rollback(name).version == "1"
    assert store.entry(name, "champion").version == "1"
    with pytest.raises(UserError, match="No version was champion before"):
        store.rollback(name)


def test_all_candidates_are_promoted_once_and_a_refusal_shows(
    store: Store, packages: list[Package], monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote() -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["registry", "promote"])
        return done.exit_code, done.stdout

    monkeypatch.setattr(commands, "store", lambda settings: store)
    assert promote() == (0, "There is no candidate.\n")
    name = store.register(packages[0], GOOD).name
    status, said = promote()
    assert status == 0 and said.endswith(f"{name}: promoted\n")
    assert store.candidates() == [] and promote()[0] == 0
    store.register(packages[1], WORSE)
    status, said = promote()
    assert status == 1 and said.endswith(f"{name}: not promoted\n")
    assert store.candidates() == [name] and store.entry(name, "champion").version == "1"


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
    store.promote(entry.name, "candidate", ASKED)
    status, said = run("show", "mug-1")
    told = json.loads(said)
    assert status == 0 and (told["version"], told["digest"]) == ("1", packages[0].digest)
    assert told["aliases"] == ["champion"] and told["data"] == {"subjects": "abc"}
    assert told["gate"]["passed"] and told["run"].endswith(entry.run_id)
    assert run("show", entry.name, "1") == (status, said)

    out = tmp_path / "out"
    assert run("export", "mug-1", str(out))[0] == 0
    assert Package.open(out).digest == packages[0].digest
    assert run("export", "mug-1", str(out))[0] == 2  # there already

    assert run("verify") == (0, "1 verified, 0 damaged\n")
    kept = Path(store.client.get_run(entry.run_id).info.artifact_uri.removeprefix("file://"))
    (kept / ARTIFACT / WEIGHTS).write_bytes(b"exchanged")
    store.register(packages[1], GOOD)
    status, said = run("verify", "mug-1")
    assert status == 1 and "damaged or exchanged" in said
    assert said.endswith("2 verified, 1 damaged\n")
    (kept / ARTIFACT / WEIGHTS).unlink()
    (kept / ARTIFACT / CARD).unlink()
    (kept / ARTIFACT).rmdir()
    with pytest.raises(UserError, match="cannot be had"):
        store.fetch(entry, tmp_path / "gone")


def test_what_is_not_there_is_said(store: Store, packages: list[Package]) -> None:
    with pytest.raises(UserError, match="there are: none"):
        store.entry("dreammix.mug-1", "champion")
    name = store.register(packages[0], GOOD).name
    with pytest.raises(UserError, match=r"there are: 1 \(candidate\)"):
        store.entry(name, "champion")


@pytest.mark.parametrize(
    ("candidate", "champion", "passed"),
    [
        (GOOD, None, True),
        (figures(0.6, -0.01), None, False),
        (figures(0.6, 0.0), None, False),
        (BETTER, GOOD, True),
        (WORSE, GOOD, False),
        (figures(0.9, -0.1), GOOD, False),
    ],
)
def test_verdicts(
    candidate: Mapping[str, Any], champion: Mapping[str, Any] | None, passed: bool
) -> None:
    assert decide(candidate, champion, ASKED).passed is passed


def test_what_was_not_measured_does_not_pass() -> None:
    with pytest.raises(UserError, match="what was not measured"):
        decide({}, None, ASKED)


def test_a_server_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="does not answer"):
        Store.connect("http://127.0.0.1:9")
