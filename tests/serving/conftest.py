"""One server for the module's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from insitu.registry.store import Store
from insitu.serving.app import make_app
from insitu.serving.service import Service
from tests.serving import served


@pytest.fixture(scope="session")
def bases(checkpoints: dict[str, Path]) -> dict[str, Any]:
    return served.load_bases(checkpoints)


@pytest.fixture(scope="module")
def store(bases: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Store:
    return served.make_store(tmp_path_factory.mktemp("registry"), bases)


@pytest.fixture(scope="module")
def service(
    store: Store, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Service:
    """On bases of its own: another server's adapters would sit in shared ones."""
    params = served.make_params(tmp_path_factory.mktemp("served"), checkpoints, follow_s=0.1)
    return served.make_service(params, store, served.load_bases(checkpoints))


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        yield client
