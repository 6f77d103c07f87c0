"""One piece of `claims`: an adapter is trained, pictures are painted with it and measured.

Everything lies under `.insitu/claims`, by the digest of what it follows from, so that what is
finished is kept, whatever was interrupted and whatever else changed.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.digest import code_digest, file_digest
from insitu.errors import UserError
from insitu.evaluation import sets
from insitu.evaluation.claims.registered import Registered
from insitu.files import replace_text, replacing
from insitu.params import Params
from insitu.randomness import rng_for
from insitu.records.manifest import MANIFEST
from insitu.registry.package import RUN, Package
from pipelines import _methods, _paths, _step, _subjects, _training, _tuning
from pipelines._arm_settings import block_of, params_of, start_params
from pipelines._wanted import (
    ASKED,
    FACTS,
    PICTURES,
    SUBJECTS,
    WORK,
    Place,
    Wanted,
    asked_in,
    replicates,
    start_of,
)

if TYPE_CHECKING:
    from insitu.evaluation.sets import Item

JUDGES = ("evaluation/sets/items", "evaluation/metrics", "perception")


class Bench:
    """What a worker loads once, and what it does piece by piece."""

    def __init__(self, params: Params, registered: Registered, wanted: "Wanted") -> None:
        _step.calm()
        self.params, self.registered, self.wanted = params, registered, wanted
        self._bases: dict[str, Any] = {}
        self._items: dict[tuple[str, str, int], list[Item]] = {}

    def do(self, piece: str) -> None:
        """`rows METHOD/ARM`, `rows METHOD/START/start`, `start METHOD/START`, or
        `arm METHOD/ARM/REPLICATE`.
        """
        kind, _, name = piece.partition(" ")
        method, *rest = name.split("/")
        own, began = self.registered.methods[method], time.monotonic()
        if kind == "start":
            self.train(start_params(self.params, method, own, rest[0]), start_of(method, rest[0]))
        elif kind == "rows" and len(rest) > 1:
            self.rows(start_params(self.params, method, own, rest[0]), method)
        elif kind == "rows":
            place = Place(method=method, arm=rest[0], replicate=self.registered.seeds[0])
            self.rows(params_of(self.params, own, place), method)
        else:
            self.arm(Place(method=method, arm=rest[0], replicate=int(rest[1])))
        print(f"{piece}: {time.monotonic() - began:.0f} s", flush=True)

    # --- what is learned from

    def rows(self, params: Params, method: str) -> tuple[Path, Path]:
        """The folders of an arm's data and of its encoded examples, made where they are not."""
        from insitu.training.encoding import digest_of, encode, facts_of

        data = self._data(params)
        facts = _methods.facts(params, method, data)
        target = WORK / "encoded" / digest_of(facts)[:16]
        if facts_of(target) != facts:
            backbone = self._base(_methods.method(params, method).base)
            examples = _methods.examples(params, method, data)
            encode(_methods.method(params, method), backbone, examples, target, facts=facts)
        return data, target

    def _data(self, params: Params) -> Path:
        """The stages' own data, or BoundID filtered otherwise."""
        if params.boundid == self.params.boundid:
            return _methods.DATA
        from pipelines import boundid

        inputs = [file_digest(d / MANIFEST) for d in (_paths.CANDIDATES, _paths.DETECTIONS)]
        told = json.dumps([params.boundid.model_dump(), inputs], sort_keys=True)
        root = WORK / "data" / hashlib.sha256(told.encode()).hexdigest()[:16]
        if not (root / "boundid" / MANIFEST).exists():
            root.mkdir(parents=True, exist_ok=True)
            boundid.make(params, root / "boundid")
        return root

    # --- adapters

    def train(self, params: Params, place: Place) -> Package:
        """Train, unless it is there."""
        from insitu.training.tune import input_digest, tune

        if self.registered.methods[place.method].subjects is not None:
            setup, source = self._of_subject(params, place.replicate)
        else:
            data, encoded = self.rows(params, place.method)
            base = _methods.method(params, place.method).base
            setup = _training.setup(params, place.method, lambda: self._base(base))
            source = _training.source(params, place.method, encoded, data)
        found = _finished(place.adapter)
        if found is not None and found.run().get("input_digest") == input_digest(source, setup):
            return found
        place.folder.mkdir(parents=True, exist_ok=True)
        # What is measured is what they paint, and each is like what was planned for.
        watch = replace(setup.watch, validate=None, plan=False)
        few = replace(source, requests=source.requests[:1])
        return tune(few, place.adapter, replace(setup, watch=watch))

    def _of_subject(self, params: Params, number: int) -> tuple[Any, Any]:
        from insitu.training.encoding import encode, facts_of

        root, name = SUBJECTS, _subject_names()[number]
        rows = _tuning.rows(name, root)
        facts = _tuning.facts(params, rows)
        encoded = (
            WORK / "encoded" / f"{name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"
        )
        if facts_of(encoded) != facts:
            backbone = self._base("inpaint")
            examples = _tuning.examples(params, rows, backbone.size)
            encode(_tuning.method(params), backbone, examples, encoded, facts=facts)
        setup = _subjects.setup(params, lambda: self._base("inpaint"))
        return setup, _subjects.source(params, name, rows, encoded, root)

    # --- pictures

    def arm(self, place: Place) -> None:
        """Train an arm, then paint and measure what is wanted of it and of those like it."""
        own = self.registered.methods[place.method]
        package = None
        if own.arms[place.arm].trained:
            package = self.train(params_of(self.params, own, place), place)
        for name in self.wanted.painting(place.method, place.arm):
            like = Place(method=place.method, arm=name, replicate=place.replicate)
            for benchmark in self.wanted.benchmarks[place.method, name]:
                self.measure(like, benchmark, package)

    def measure(self, place: Place, benchmark: str, package: Package | None) -> None:
        """Paint a benchmark's items and write their scores."""
        from PIL import Image

        from insitu.evaluation import tables

        own = self.registered.methods[place.method]
        items, asked = self._of(place, benchmark), own.benchmarks[benchmark]
        params = params_of(self.params, own, place, paint=True)
        method = self._method(params, place.method)
        facts = {
            "adapter": package.digest if package else f"untrained, seed {place.replicate}",
            "settings": json.loads(json.dumps(vars(method.settings), default=str)),
            "items": sets.digest(items),
            "asked": asked.model_dump(),
            "code": code_digest(*JUDGES, "backbones", f"methods/{place.method}"),
        }
        target = place.table(benchmark)
        if _facts(target) == json.loads(json.dumps(facts)):
            return
        metrics, backbone = self._eyes.named(asked.metrics), self._base(method.base)
        seeds = [
            int(rng_for("claims", place.method, place.replicate, n).integers(2**31))
            for n in range(len(items) * asked.pictures)
        ]
        with _put(method, backbone, package, place.replicate) as acting:
            scores, pictures = sets.scores_of(
                [item for item in items for _ in range(asked.pictures)],
                functools.partial(acting.paint, backbone), metrics, seeds=seeds,
                clock=time.perf_counter,
            )  # fmt: skip
        means = {name: v.reshape(len(items), -1).mean(1) for name, v in scores.items()}
        rows: list[dict[str, object]] = [
            {"request": n} | {name: round(float(values[n]), 6) for name, values in means.items()}
            for n in range(len(items))
        ]
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as fresh:
            if place.replicate == replicates(self.registered, place.method, place.arm)[0]:
                (fresh / PICTURES).mkdir()
                for n, picture in enumerate(pictures[:: asked.pictures]):
                    Image.fromarray(picture).save(fresh / PICTURES / f"{n}.png")
            tables.write(fresh / tables.NAME, rows)
            replace_text(fresh / FACTS, json.dumps(facts, indent=2) + "\n")

    def _of(self, place: Place, benchmark: str) -> "list[Item]":
        own = self.registered.methods[place.method]
        number = place.replicate if own.subjects is not None else 0
        key = (place.method, benchmark, number)
        if key not in self._items:
            from pipelines import _sets

            asked = own.benchmarks[benchmark]
            if own.subjects is not None:
                name = _subject_names()[number]
                photos = _tuning.rows(name, SUBJECTS)[0]
                found = _sets.of_subject(self.params, asked, name, photos, SUBJECTS)
            else:
                found = _sets.items(self.params, place.method, asked, self._eyes)
            self._items[key] = found
            _keep_asked(found)
        return self._items[key]

    def _method(self, params: Params, name: str) -> Any:
        if block_of(params, name) == "tune":
            return _tuning.method(params)
        return _methods.method(params, name)

    def _base(self, name: str) -> Any:
        if name not in self._bases:
            from insitu.backbones import bases
            from insitu.backbones.loading import choose_device
            from insitu.backbones.precision import Precision

            _step.quiet()
            self._bases[name] = bases.load(
                name, getattr(self.params.models, name), device=choose_device(self.params.device),
                precision=Precision.of({"dtype": self.params.dtype}),
            )  # fmt: skip
        return self._bases[name]

    @functools.cached_property
    def _eyes(self) -> Any:
        from insitu.evaluation.checkpoints.judging import PRESENT
        from insitu.evaluation.trained import Eyes
        from pipelines import _models

        return Eyes(
            clip=_models.clip(self.params), dino=_models.dino(self.params),
            detector=_models.detector(self.params), faces=_models.faces(self.params),
            present=PRESENT,
        )  # fmt: skip


def _keep_asked(items: "Sequence[Item]") -> None:
    """Photo, references and words of each item, for the report."""
    folder = asked_in(sets.digest(items))
    if folder.exists():
        return
    try:
        _write_asked(items, folder)
    except OSError:  # two workers may come to it at once, with the same
        if not (folder / ASKED).exists():
            raise


def _write_asked(items: "Sequence[Item]", folder: Path) -> None:
    from PIL import Image

    told = []
    with replacing(folder) as fresh:
        for n, item in enumerate(items):
            Image.fromarray(item.request.image).save(fresh / f"{n}.png")
            references = [e.references[0].image for e in item.entities if e.references]
            for k, reference in enumerate(references):
                Image.fromarray(reference).save(fresh / f"{n}-{k}.png")
            told.append(
                {
                    "prompt": item.request.prompt, "group": item.group,
                    "keep": item.request.background == "keep", "references": len(references),
                    "boxes": [list(entity.box_xyxy01) for entity in item.entities],
                    "words": [entity.text for entity in item.entities],
                }
            )  # fmt: skip
        replace_text(fresh / ASKED, json.dumps(told, indent=1) + "\n")


@contextlib.contextmanager
def _put(method: Any, backbone: Any, package: Package | None, seed: int) -> Iterator[Any]:
    """With the adapter in the backbone, or with one that has learned nothing."""
    import torch
    from safetensors.torch import load_file

    if package is not None:
        method.load(backbone, load_file(package.weights))
        acting = method
    else:
        torch.manual_seed(seed)
        acting = method.untrained()
        acting.attach(backbone)
    try:
        yield acting
    finally:
        acting.detach(backbone)


def _subject_names() -> list[str]:
    return sorted(path.name for path in (SUBJECTS / _paths.SUBJECTS).iterdir() if path.is_dir())


def _finished(folder: Path) -> Package | None:
    if not (folder / RUN).exists():
        return None
    try:
        return Package.open(folder)
    except UserError:
        return None  # damaged: made again


def _facts(folder: Path) -> Any:
    path = folder / FACTS
    return json.loads(path.read_text()) if path.exists() else None
