"""Proves that what is loaded is served on while MLflow, its artifacts or the disk fail, that
`/readyz` says so, and that the server recovers by itself; also that it begins without MLflow.

Needs no server: MLflow is a SQLite file, and its failures are made where it is asked.
"""

import errno
import json
import pickle
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from insitu import cli
from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.registry.package import CARD, WEIGHTS, Package
from insitu.registry.server import Unreachable
from insitu.registry.store import ARTIFACT, CHAMPION, Store
from insitu.serving import catalog, shelf
from insitu.serving.app import make_app
from insitu.serving.service import Service, make_engine
from tests.serving import served
from tests.serving.served import CUP, MUG
from tests.serving.test_place import ask, picture


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def problems(client: TestClient) -> dict[str, Any]:
    answer = client.get("/readyz")
    assert answer.status_code == 200  # what is loaded is served
    found: dict[str, Any] = answer.json()["problems"]
    return found


@pytest.fixture
def own(store: Store) -> Iterator[Store]:
    """The registry, as it was when the test is over."""
    yield store
    for name in (MUG, CUP):
        store.client.set_registered_model_alias(name, CHAMPION, "1")


def down(*_: Any, **__: Any) -> Any:
    raise Unreachable("MLflow was asked.", "It does not answer.", "Wait.")


def test_without_mlflow_names_mean_what_they_meant(
    client: TestClient, own: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture(client)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "aliases", down)
        patch.setattr(Store, "resolve", down)
        own.client.set_registered_model_alias(MUG, CHAMPION, "2")
        until(lambda: "registry" in problems(client))
        assert np.array_equal(picture(client), before)
        answer = ask(client, adapter="dreammix.new-1")
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert problems(client)["registry"]["why"] == "It does not answer."
    until(lambda: not problems(client))
    until(lambda: bool(ask(client).json()["version"] == "2"))


def test_a_version_that_cannot_be_had_is_not_swapped_to(client: TestClient, own: Store) -> None:
    before = picture(client, adapter=CUP)
    entry = own.entry(MUG, "1")
    # A new version of the cup whose artifacts are gone.
    made = own.client.create_model_version(
        CUP, f"runs:/{entry.run_id}/gone", entry.run_id, tags={"digest": "e" * 64}
    )
    kept = Path(own.client.get_run(entry.run_id).info.artifact_uri.removeprefix("file://"))
    (kept / ARTIFACT).rename(kept / "away")
    try:
        own.client.set_registered_model_alias(CUP, CHAMPION, str(made.version))
        until(lambda: f"{CUP} {made.version}" in problems(client))
        assert np.array_equal(picture(client, adapter=CUP), before)
    finally:
        (kept / "away").rename(kept / ARTIFACT)
        own.client.set_registered_model_alias(CUP, CHAMPION, "1")
        own.client.delete_model_version(CUP, str(made.version))
    until(lambda: not [part for part in problems(client) if part != f"{CUP} {made.version}"])


def test_a_full_disk_stops_what_is_new_and_nothing_else(
    own: Store,
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    params = served.make_params(tmp_path, checkpoints, follow_s=0.05)
    service = served.make_service(params, own, served.load_bases(checkpoints))
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        before = picture(client)
        with monkeypatch.context() as patch:
            patch.setattr(shelf.tempfile, "TemporaryDirectory", full)
            patch.setattr(catalog, "replace_text", full)
            assert np.array_equal(picture(client), before)
            answer = ask(client, adapter=CUP)
            assert answer.status_code == 503 and "No space left" in answer.json()["error"]["why"]
            until(lambda: "disk" in problems(client))
        until(lambda: not problems(client))
        assert ask(client, adapter=CUP).status_code == 200


def test_a_server_begins_without_mlflow_with_what_it_kept(
    store: Store, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    params = served.make_params(tmp_path, checkpoints)
    bases = served.load_bases(checkpoints)
    with TestClient(
        make_app(served.make_service(params, store, bases)), base_url="http://127.0.0.1"
    ) as client:
        before = picture(client)
    again = served.make_engine(params, store, bases)
    again.catalog._connect = down
    service = Service.of(params, again)
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        assert np.array_equal(picture(client), before)
        assert problems(client)["registry"]["why"] == "It does not answer."
        assert client.get("/v1/adapters").json()["adapters"]


def test_a_damaged_package_is_fetched_again(
    service: Service, client: TestClient, own: Store
) -> None:
    picture(client)
    entry = own.entry(MUG, "1")
    folder = Path(service.limits.folder) / "packages" / entry.digest
    (folder / "adapter.safetensors").write_bytes(b"exchanged")
    assert picture(client).shape == served.PHOTO.shape  # what is in memory is not in the file
    assert service.engine.shelf.package(entry).digest == entry.digest


def test_a_pickle_as_an_adapter_is_refused(
    client: TestClient, own: Store, bases: dict[str, Any], tmp_path: Path
) -> None:
    package = served.make_package(tmp_path / "pickle", bases["inpaint"], "dreammix.bad-1", 3)
    (package.folder / WEIGHTS).write_bytes(pickle.dumps({"a": [1] * 100}))
    text = json.loads((package.folder / CARD).read_text())
    text["weights_sha256"] = file_digest(package.folder / WEIGHTS)
    (package.folder / CARD).write_text(json.dumps(text))
    own.register(Package.open(package.folder), {})
    answer = ask(client, adapter="dreammix.bad-1", version="candidate")
    assert answer.status_code == 422 and "no safetensors" in answer.json()["error"]["why"]
    assert ask(client).status_code == 200


def test_weights_go_by_last_use_under_their_budget(
    store: Store, bases: dict[str, Any], tmp_path: Path
) -> None:
    one, two = store.entry(MUG, "1"), store.entry(MUG, "2")
    own = shelf.Shelf(lambda: store, tmp_path, mib=1)
    own.weights(one)
    size = own.used
    own._most = int(1.5 * size)
    assert own.weights(one) is own.weights(one) and (own.hits, own.misses) == (2, 1)
    own.weights(two)
    assert own.evictions == 1 and own.count == 1 and own.used == size
    own.weights(one)
    assert own.misses == 3
    own._most = 10 * size
    assert own.get(two) is own.get(two)
    own._most = size - 1
    with pytest.raises(UserError, match=r"Raise serving\.adapters_mib"):
        own.get(one)


def test_sync_keeps_champions_for_a_start_without_mlflow(
    store: Store, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = served.make_params(tmp_path, checkpoints)
    connect = Store.connect
    monkeypatch.setattr(Store, "connect", lambda *_: connect(store.uri))
    other = Path(params.serving.folder) / "packages" / ("a" * 64)
    other.mkdir(parents=True)
    done = CliRunner().invoke(
        cli.app, ["registry", "sync", "--params", str(tmp_path / "params.yaml")]
    )
    assert done.exit_code == 0 and "4 in" in done.stdout and "1 others removed" in done.stdout
    monkeypatch.setattr(Store, "connect", down)
    service = Service.of(params, make_engine(params, lambda: served.load_bases(checkpoints)))
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        assert picture(client).shape == served.PHOTO.shape
