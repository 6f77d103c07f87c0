"""Proves that the server on Ray Serve answers as the one in a process does, picture for picture.

Needs Ray, whose own cluster listens on this machine's loopback alone; bases are tiny random ones.
"""

import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from insitu.client import Client, Refused
from insitu.serving.app import make_app
from tests.serving import served
from tests.serving.served import CUP, MUG, PHOTO
from tests.serving.test_place import BOX, picture

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    yield
    from ray import serve

    serve.shutdown()
    ray.shutdown()


def test_it_answers_as_in_one_process(
    checkpoints: dict[str, Path], tmp_path: Path, cluster: None
) -> None:
    from insitu.serving import on_ray

    bases = served.load_bases(checkpoints)
    store = served.make_store(tmp_path, bases)
    params = served.make_params(tmp_path, checkpoints)
    with TestClient(
        make_app(served.make_service(params, store, bases)), base_url="http://127.0.0.1"
    ) as here:
        wanted = {name: picture(here, adapter=name) for name in (MUG, CUP)}
    registry = params.registry.model_copy(update={"tracking_uri": store.uri})
    own = params.model_copy(update={"registry": registry})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ray.run(own, host="127.0.0.1", port=port, replicas=2, blocking=False)
    found: dict[str, Any] = {}
    with Client(f"http://127.0.0.1:{port}") as client:

        def ask(name: str) -> None:
            placed = client.place(name, PHOTO, [{"box": BOX}], seed=4)
            found[name] = np.array(placed.image.convert("RGB"))

        threads = [threading.Thread(target=ask, args=(name,)) for name in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, pixels in wanted.items():
            assert np.abs(found[name].astype(int) - pixels).max() <= 1
        with pytest.raises(Refused, match="nothing can be painted"):
            client.place(MUG, PHOTO, [{"box": (0.5, 0.5, 0.51, 0.51)}])
        with pytest.raises(Refused, match="no such version"):
            client.place("dreammix.cat-9", PHOTO, [{"box": BOX}])
        job = client.start(MUG, PHOTO, [{"box": BOX}], seed=4)
        assert np.array_equal(np.array(job.wait().image.convert("RGB")), found[MUG])
