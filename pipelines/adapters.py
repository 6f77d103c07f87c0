"""Stage `adapters`: an adapter package for every subject.

They are tuned side by side by `tune.workers` processes, each of which loads the base once. Finished
ones whose inputs are unchanged are kept, so an interrupted run continues and a new subject
costs only itself. One that fails keeps no other from being tuned; what failed is listed at the end,
with its reason, and the stage fails. Run from the repository's root:

    python -m pipelines.adapters                             # all subjects, then prune and list
    python -m pipelines.adapters --subject A --subject B     # some of them, and nothing else
"""

import argparse
import functools
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.params import Params
from insitu.registry.package import RUN, Package
from pipelines import _fleet, _step, _subjects, _tuning
from pipelines._paths import ADAPTERS, ENCODED, MANIFEST

if TYPE_CHECKING:
    from insitu.training.tune import Source


def main(params: Params, report: _step.Report, subjects: Sequence[str] = ()) -> None:
    names = _tuning.subjects()
    asked = _tuning.require(subjects, names)
    failed: dict[str, UserError] = {}
    began = time.monotonic()
    bench, todo = _Bench(params), []
    for name in asked:
        try:
            if bench.wanted(name) != _finished(ADAPTERS / name):
                todo.append(name)
            else:
                print(f"{name}: unchanged")
        except UserError as error:
            failed[name] = error
    if todo:
        for name, reason in _tuned(bench, todo, workers=min(params.tune.workers, len(asked))):
            if reason is not None:
                failed[name] = reason
        print(f"{len(todo)} subjects in {time.monotonic() - began:.0f} s")
    for name, reason in failed.items():
        print(f"{name}: failed\n{reason}", file=sys.stderr)
    if failed:
        raise _failed(failed, len(asked))
    if not subjects:
        _prune(names)
        packages = {name: Package.open(ADAPTERS / name).digest for name in names}
        replace_text(MANIFEST, json.dumps(packages, indent=2, sort_keys=True) + "\n")
        report({"adapters": len(names)})


def _tuned(
    bench: "_Bench", todo: Sequence[str], *, workers: int
) -> Iterator[tuple[str, UserError | None]]:
    """Each as it ends; with several workers each has its part of the processor, or a GPU."""
    from insitu.registry.store import Store
    from insitu.training.run_logger import parent_run

    # The server first: one that is not there is refused before a model is loaded.
    store = Store.connect(bench.params.registry.tracking_uri)
    tags = {"stage": "adapters", "setup": bench.setup.digest}
    with parent_run(store, "adapters", tags) as parent:
        shown = _Shown(uri=store.uri, parent=parent)
        if workers > 1:
            yield from _fleet.run(
                todo, functools.partial(_start, bench.params, shown), workers=workers,
                threads=max(1, _fleet.cores() // workers), gpus=bench.gpus,
            )  # fmt: skip
            return
        for name in todo:
            try:
                bench.tune(name, shown)
            except UserError as error:
                yield name, error
            else:
                yield name, None


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """Where runs are shown: the server, and the run that the subjects' are shown under."""

    uri: str
    parent: str


class _Bench:
    """What is the same for all subjects; the base, loaded when the first one needs it."""

    def __init__(self, params: Params) -> None:
        from insitu.backbones.loading import choose_device

        self.params = params
        self.device = choose_device(params.device)
        self.setup = _subjects.setup(
            params, functools.lru_cache(maxsize=1)(self._load), params.registry.tracking_uri
        )

    @property
    def gpus(self) -> int:
        """That there are; 0 where it runs on the processor."""
        import torch

        return torch.cuda.device_count() if self.device.type == "cuda" else 0

    def wanted(self, name: str) -> str:
        """The input digest of the subject's adapter."""
        from insitu.training.tune import input_digest

        return input_digest(self._source(name), self.setup)

    def tune(self, name: str, shown: _Shown) -> None:
        from insitu.evaluation.placement import Reference
        from insitu.registry.store import Store
        from insitu.training.benchmark import Benchmark
        from insitu.training.run_logger import RunLogger
        from insitu.training.tune import input_digest, tune

        store, models = Store.connect(shown.uri), self.params.models
        source = self._source(name)
        tags = {"subject": name, "input": input_digest(source, self.setup)}
        package = tune(
            source, ADAPTERS / name, self.setup, show=True,
            logger=RunLogger(store, name, tags, parent=shown.parent),
            benchmark=Benchmark(
                Reference.of(_tuning.rows(name)[0]).photos,
                {"dino": models.dino.model_dump(), "clip": models.clip.model_dump()},
            ),
        )  # fmt: skip
        print(f"{name}: {package.digest[:12]}, {package.run()['seconds']:.0f} s", flush=True)

    def _source(self, name: str) -> "Source":
        return _subjects.source(
            self.params, name, _tuning.rows(name), ENCODED / "subjects" / name
        )  # fmt: skip

    def _load(self) -> Any:
        from insitu.backbones.precision import Precision
        from insitu.backbones.unet import InpaintBackbone

        _step.quiet()
        return InpaintBackbone.load(
            self.params.models.inpaint,
            device=self.device,
            precision=Precision.of(self.params.learning_base(self.params.tune)),
        )


def _start(params: Params, shown: _Shown) -> _fleet.Do:
    """What a process of the fleet begins with."""
    _step.calm()
    return functools.partial(_Bench(params).tune, shown=shown)


def _failed(failed: dict[str, UserError], asked: int) -> UserError:
    """The only one's own error, or one for all."""
    if len(failed) == 1 and asked == 1:
        return next(iter(failed.values()))
    reasons = " ".join(f"{name}: {error.why}" for name, error in failed.items())
    return UserError(
        f"{asked} subjects were to be tuned, and {len(failed)} of them failed:"
        f" {', '.join(failed)}.",
        reasons,
        "Mend them one by one (above is what to do for each) and run again: what is finished is"
        " kept.",
    )


def _finished(folder: Path) -> str | None:
    """The input digest of the whole package that lies there, None without one."""
    if not (folder / RUN).exists():
        return None
    try:
        return str(Package.open(folder).run().get("input_digest"))
    except UserError:
        return None  # damaged: tuned again


def _prune(names: list[str]) -> None:
    for path in sorted(ADAPTERS.iterdir()):
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)
            print(f"{path.name}: removed, it is no longer a subject")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Tune an adapter for every subject.")
    parser.add_argument(
        "--subject", action="append", default=[], help="only these; nothing is pruned or listed"
    )
    chosen = parser.parse_args().subject
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
