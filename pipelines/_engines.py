"""What the data engines' stages do the same: shards from shards, published whole."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from insitu.digest import code_digest, file_digest
from insitu.params import Params
from insitu.records import Manifest, Record, load_manifest, read
from insitu.records.manifest import MANIFEST
from insitu.synthesis import cards
from insitu.synthesis.runner import Engine, Job, Worker, produce
from pipelines._paths import IMAGES

In = TypeVar("In", bound=Record)
Out = TypeVar("Out", bound=Record)
CODE = ("backbones", "perception", "records", "synthesis", "world", "randomness")


def make(
    params: Params,
    target: Path,
    record_type: type[Out],
    *,
    worker: Callable[[Params], Worker[Any, Out]],
    rows: Callable[[int], Iterable[Any]],
    shards: int,
    settings: dict[str, Any],
    inputs: Iterable[Path] = (),
    name: Callable[[Any], str] = lambda row: str(row.id),
    finish: Callable[[Path], None] = lambda folder: None,
) -> Manifest:
    """Run a stage's class over its shards and publish them at `target`.

    Args:
        worker: makes it from the settings, once for each worker.
        settings: all that decides the rows, apart from inputs and code.
        inputs: folders of shards that it reads.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    facts = {
        "settings": settings,
        "seed": params.seed,
        "shard": params.runner.shard,
        "inputs": {str(path): file_digest(path / MANIFEST) for path in inputs},
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    runner = params.runner
    return produce(
        Job(make=partial(worker, params), rows=rows, name=name, batch=runner.batch),
        target,
        record_type,
        input_digest=digest,
        code=code_digest(*CODE),
        shards=shards,
        engine=Engine(kind=runner.engine, workers=runner.workers, threads=runner.threads),
        finish=finish,
    )


def card(
    target: Path,
    record_type: type[Record],
    *,
    title: str,
    text: str,
    filters: Sequence[str],
    settings: Mapping[str, Any],
    made_of: Collection[str] = ("world",),
) -> Callable[[Path], None]:
    """What writes the card of a data set, for `make`'s `finish`.

    Args:
        settings: what decided the rows, as in params.yaml.
        made_of: where its pictures come from: world, pictures (a user's own), flux.
    """
    licences = {}
    if "world" in made_of:
        licences[cards.DRAWN] = "what the world's code drew"
    if "pictures" in made_of:
        licences |= dict.fromkeys(cards.licences_in(IMAGES), "pictures of your own")
    if "flux" in made_of:
        licences["see the model's licence"] = "pictures that FLUX drew"
    return partial(
        cards.write,
        title=title,
        text=text,
        record_type=record_type,
        path=str(target),
        filters=filters,
        settings=settings,
        licences=licences,
    )


def seeing(params: Params) -> dict[str, Any]:
    """What the models of the data engines are told, without addresses: for cards."""
    told = {"segmenter", "tagger", "captioner", "faces", "detection", "face"}
    return {"perception": params.perception.model_dump(include=told)}


def rows_of(folder: Path, record_type: type[In], index: int) -> Iterable[In]:
    """The kept rows of one shard of a finished folder."""
    return read(folder, record_type, shards=[index])


def shards_of(folder: Path) -> int:
    """How many shards a finished folder has."""
    return len(load_manifest(folder).shards)


def numbers(count: int, shard: int) -> list[range]:
    """The numbers 0 .. count - 1, cut into shards."""
    return [range(start, min(start + shard, count)) for start in range(0, count, shard)]


def counts(manifest: Manifest) -> dict[str, int]:
    """What came of a stage's rows, for Dagster's page."""
    return {
        "rows": manifest.rows,
        **{f"refused: {name}": n for name, n in manifest.rejected_by_filter.items()},
        "set aside": len(manifest.set_aside),
    }
