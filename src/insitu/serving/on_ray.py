"""The same server on Ray Serve: one front that answers, and painters that share out the work.

The front knows bases by their digests alone. A batch goes to a painter that holds its adapter
(multiplexing by digest), so that thousands of adapters spread over the painters of a cluster.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from insitu.errors import UserError
from insitu.params import Params
from insitu.progress import Watcher
from insitu.registry.store import Entry
from insitu.serving.engine import Asked

APP, PAINTER = "insitu", "painter"
HELD = 64
"""Adapters that Ray takes a painter to have at hand; memory is bounded by serving.adapters_mib."""
LOOK_S = 0.2
"""Seconds between two looks whether anybody still waits for what a painter does."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """A base as the front knows it."""

    digest: str
    size: int


def run(params: Params, *, host: str, port: int, replicas: int, blocking: bool = True) -> None:
    """Serve until it is ended, on the cluster of RAY_ADDRESS or, without one, on this machine.

    Args:
        replicas: painters; each loads the bases.

    Raises:
        UserError: a local cluster was asked for without a secret, or the cluster does not begin.
    """
    # Read when ray is imported: report to nobody.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray import serve

    here = (str(Path.cwd()), [path or "." for path in sys.path])
    if not ray.is_initialized():
        own: dict[str, Any] = {
            "address": "local", "num_cpus": replicas + 2, "include_dashboard": False,
        }  # fmt: skip
        elsewhere = bool(os.environ.get("RAY_ADDRESS"))
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(here[1]), "HF_HUB_OFFLINE": "1"}}
        ray.init(
            log_to_driver=False, logging_level=logging.ERROR, runtime_env=environment,
            **({} if elsewhere else own),
        )  # fmt: skip
    serve.start(http_options={"host": host, "port": port})
    serve.run(
        application(params, replicas=replicas, here=here[0]), name=APP, blocking=blocking,
        route_prefix="/",
    )  # fmt: skip


def application(params: Params, *, replicas: int, here: str) -> Any:
    """The front with its painters.

    Args:
        here: the folder that paths in the settings are relative to.
    """
    from ray import serve

    class Painter(_Painter):
        @serve.multiplexed(max_num_models_per_replica=HELD)
        async def hold(self, digest: str) -> str:
            """Have an adapter at hand; Ray is told, and sends its requests here."""
            await asyncio.to_thread(self.engine.shelf.get, self.entries.pop(digest))
            return digest

        async def __call__(self, asked: list[Asked]) -> list[NDArray[np.uint8]]:
            entry = asked[0].entry
            self.entries[entry.digest] = entry
            await self.hold(entry.digest)
            return await self.paint(asked)

    painter = serve.deployment(name=PAINTER, num_replicas=replicas)(Painter)
    front = serve.deployment(name="front", max_ongoing_requests=4 * params.serving.queue + 100)(
        serve.ingress(lambda: _front(params, replicas, here))()
    )
    return front.bind(painter.bind(params, here))


def _front(params: Params, replicas: int, here: str) -> Any:
    """The application, on a replica of its own."""
    os.chdir(here)
    from insitu.backbones.bases import size_of
    from insitu.backbones.loading import base_digest
    from insitu.serving.app import make_app
    from insitu.serving.guards import configure_logs
    from insitu.serving.keys import Keys
    from insitu.serving.service import Service, bases_of, language_of, make_engine

    configure_logs()
    own = params.serving
    known = {}
    for base in bases_of(params):
        checkpoint = getattr(params.models, base)
        known[base] = Known(digest=base_digest(checkpoint), size=size_of(base, checkpoint))
    service = Service.of(
        params, make_engine(params, lambda: known), paint=_paint, painters=replicas,
        keys=None if own.keys is None else Keys(Path(own.keys)), language=language_of(params),
    )  # fmt: skip
    return make_app(service)


def _paint(asked: Sequence[Asked], watcher: Watcher) -> list[NDArray[np.uint8]]:
    """Have a painter paint; called in the front, by a thread for each painter."""
    from ray import serve
    from ray.exceptions import RayTaskError

    handle = serve.get_deployment_handle(PAINTER, APP)
    answer = handle.options(multiplexed_model_id=asked[0].entry.digest).remote(list(asked))
    while True:
        try:
            watcher(0.0)  # raises where nobody waits any more
            found: list[NDArray[np.uint8]] = answer.result(timeout_s=LOOK_S)
            return found
        except TimeoutError:
            continue
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise


class _Painter:
    """Bases and an engine on them; batches one after another."""

    def __init__(self, params: Params, here: str) -> None:
        os.chdir(here)
        from ray import serve

        from insitu.serving.service import loader, make_engine

        # A folder of its own for each: two would write the same names.
        folder = Path(params.serving.folder) / serve.get_replica_context().replica_id.unique_id
        own = params.serving.model_copy(update={"folder": str(folder)})
        self.engine = make_engine(params.model_copy(update={"serving": own}), loader(params))
        self.entries: dict[str, Entry] = {}
        self._painting = asyncio.Lock()

    async def paint(self, asked: list[Asked]) -> list[NDArray[np.uint8]]:
        """Requests that are alike, when those before are done."""
        async with self._painting:
            return await asyncio.to_thread(self.engine.paint, asked)
