"""Proves that the API does what its description says: generated requests, good and broken, get
answers of the described kind and never an error of the server.

A real server on loopback, with tiny random bases.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from insitu.client import Client
from insitu.registry.store import Store
from tests.serving import served
from tests.serving.served import MUG, PHOTO
from tests.serving.test_guards import Running

CHECKS = (
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
)  # fmt: skip


@pytest.fixture(scope="module")
def running(
    store: Store, checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    params = served.make_params(tmp_path_factory.mktemp("described"), checkpoints)
    with Running(served.make_service(params, store, served.load_bases(checkpoints))) as running:
        yield running


def test_answers_are_as_described(running: Running) -> None:
    """schemathesis' own pytest plugin does not know this pytest; its cases are drawn by hand."""
    schema = schemathesis.openapi.from_url(f"{running.url}/openapi.json")
    asked = []
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path.endswith("/events"):
            continue  # of a job that is not known: a refusal, and there is no other
        asked.append(operation.label)

        @given(case=operation.as_strategy())
        @settings(
            max_examples=25, deadline=None, phases=(Phase.explicit, Phase.generate),
            suppress_health_check=list(HealthCheck), derandomize=True, database=None,
        )  # fmt: skip
        def answers(case: Any) -> None:
            case.call_and_validate(checks=CHECKS)

        answers()
    assert {"POST /v1/place", "POST /v1/images/edits", "DELETE /v1/jobs/{id}"} <= set(asked)
    with Client(running.url) as client:
        assert client.place(MUG, PHOTO, [{"box": (0.2, 0.3, 0.7, 0.9)}]).png
