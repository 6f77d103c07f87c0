"""From encoded examples to an adapter package, published as a whole."""

import contextlib
import hashlib
import json
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from insitu.digest import code_digest, file_digest
from insitu.files import replace_text, replacing
from insitu.methods import Method, Request
from insitu.registry.package import CARD, WEIGHTS, Base, Card, Package, write_run
from insitu.training import requests as files
from insitu.training.benchmark import Benchmark
from insitu.training.encoding import Encoded, Facts, digest_of
from insitu.training.fit import ADAPTER, CURVE, LAST, PREVIEW, fit
from insitu.training.job import REQUESTS, Job
from insitu.training.launch import launch
from insitu.training.recipe import Devices, Recipe, Watch
from insitu.training.run_logger import RUN_ID, RunLogger
from insitu.work import work_folder

CODE = ("backbones", "methods/__init__", "requests", "training")
"""That decides an adapter, beside its method's own."""
BENCHMARK = "benchmark"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Whose adapter it is.

    Attributes:
        class_word: what kind of thing it is.
        identifier: what stands for it in a prompt.
        attributes: words for how it looks, by kind.
    """

    name: str
    class_word: str
    identifier: str
    attributes: dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """What an adapter is learned from.

    Attributes:
        encoded: the folder of the encoded examples.
        facts: what they must have been encoded from.
        requests: what is painted to see how it goes.
        subject: the one it is of; None for an adapter that serves every subject.
    """

    encoded: Path
    facts: Facts
    requests: Sequence[Request]
    subject: Subject | None = None


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What is the same for all subjects: how an adapter is trained, on which base, where.

    Attributes:
        base: the checkpoint, by the digest of its weights.
        sizes: that the base is used at, as its settings have them; empty = its own.
        precision: how the base is held, the dtype by name.
        device: auto, cpu or cuda.
        backbone: loads the base, once; not called when other processes train.
        start: whose weights it starts from; see `start.require`.
    """

    method: Method
    base: Base
    precision: dict[str, Any]
    device: str
    recipe: Recipe
    devices: Devices
    watch: Watch
    backbone: Callable[[], Any]
    sizes: dict[str, int] = field(default_factory=dict)
    tracking_uri: str | None = None
    threads: int | None = None
    start: Package | None = None

    def behaviour(self) -> dict[str, Any]:
        """All that decides an adapter, apart from its examples and the base."""
        settings: dict[str, Any] = {
            "plan": self.recipe.facts(), "method": asdict(self.method.settings)
        }  # fmt: skip
        if self.start is not None:
            settings["start"] = self.start.digest
        return settings | {"precision": self.precision, "sizes": self.sizes}

    def facts(self) -> dict[str, Any]:
        """The same, and the method, the base and the code."""
        return {
            "setup": self.behaviour(),
            "method": self.method.name,
            "base": self.base.weights_digest,
            "code": code_digest(*CODE, f"methods/{self.method.name}"),
        }

    @property
    def digest(self) -> str:
        """Of the facts: subjects that are tuned alike have it in common."""
        return _digest(self.facts())


def input_digest(source: Source, setup: Setup) -> str:
    """What an adapter follows from; a finished one with this digest is kept."""
    subject = asdict(source.subject) if source.subject else None
    return _digest({"examples": dict(source.facts), "subject": subject, **setup.facts()})


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tune(
    source: Source,
    target: Path,
    setup: Setup,
    *,
    logger: RunLogger | None = None,
    benchmark: Benchmark | None = None,
    show: bool = False,
    root: Path | None = None,
) -> Package:
    """Train an adapter and publish its package at `target`.

    Interrupted anywhere, the next call continues from the last checkpoint and ends with the very
    weights that an uninterrupted run has on the same machine and as many devices.

    Args:
        benchmark: scores what is painted while it is trained.

    Raises:
        UserError: another process trains this adapter, its examples were encoded from something
            else, or what `fit` and `launch` refuse.
    """
    digest = input_digest(source, setup)
    encoded = Encoded.open(source.encoded, source.facts)
    place = {} if root is None else {"root": root}
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(work_folder("tune", digest, **place))
        started = time.monotonic()
        if logger is not None:
            stack.enter_context(logger.running(work))
            logger.tell(_flat(setup.behaviour()))
        if setup.devices.ranks == 1:
            fit(
                setup.method, setup.backbone(), encoded, source.requests, recipe=setup.recipe,
                devices=setup.devices, watch=setup.watch, work=work, logger=logger,
                score=benchmark, show=show,
                start=load_file(setup.start.weights) if setup.start is not None else None,
            )  # fmt: skip
        else:
            files.save(source.requests, work / REQUESTS)
            if benchmark is not None:
                benchmark.save(work / BENCHMARK)
            launch(_job(source, setup, work, logger, benchmark))
        with replacing(target) as fresh:
            card = _write(source, setup, work, fresh)
            facts = {
                "input_digest": digest, "digest": card.digest, "host": socket.gethostname(),
                "seconds": round(time.monotonic() - started, 1),
                "run_id": logger.run_id if logger is not None else None,
            }  # fmt: skip
            write_run(fresh, facts)
        # The next adapter from these inputs is another run, from the start.
        for done in (LAST, RUN_ID, CURVE):
            (work / done).unlink(missing_ok=True)
    return Package.open(target)


def _job(
    source: Source,
    setup: Setup,
    work: Path,
    logger: RunLogger | None,
    benchmark: Benchmark | None,
) -> Job:
    return Job(
        method=setup.method.name, settings=asdict(setup.method.settings),
        checkpoint={
            "path": setup.base.path, "revision": setup.base.revision, **setup.sizes
        },
        device=setup.device, precision=setup.precision, encoded=str(source.encoded),
        facts=dict(source.facts), recipe=setup.recipe, devices=setup.devices, watch=setup.watch,
        work=str(work), tracking_uri=setup.tracking_uri, threads=setup.threads,
        run=(logger.run_name, str(logger.run_id)) if logger is not None else None,
        benchmark=str(work / BENCHMARK) if benchmark is not None else None,
        start=str(setup.start.weights) if setup.start is not None else None,
    )  # fmt: skip


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names, as a run's parameters are shown."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _write(source: Source, setup: Setup, work: Path, folder: Path) -> Card:
    for name, kept in ((ADAPTER, WEIGHTS), (PREVIEW, PREVIEW), (CURVE, CURVE)):
        shutil.copy(work / name, folder / kept)
    own = source.subject
    card = Card(
        method=setup.method.name,
        subject=own.name if own else None,
        class_word=own.class_word if own else None,
        identifier=own.identifier if own else None,
        attributes=own.attributes if own else None,
        base=setup.base,
        data_digest=digest_of(source.facts),
        settings=setup.behaviour(),
        seed=setup.recipe.seed,
        weights_sha256=file_digest(folder / WEIGHTS),
    )
    replace_text(folder / CARD, card.text())
    return card
