"""Stage `adapters`: an adapter package for every subject, on a base that is loaded once.

Finished ones whose inputs are unchanged are kept, so an interrupted run continues and a new subject
costs only itself. One that fails keeps no other from being tuned; what failed is listed at the end,
with its reason, and the stage fails. Run from the repository's root:

    python -m pipelines.adapters                             # all subjects, then prune and list
    python -m pipelines.adapters --subject A --subject B     # some of them, and nothing else
"""

import argparse
import contextlib
import functools
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.params import Params
from insitu.registry.package import RUN, Base, Package
from pipelines import _step, _tuning
from pipelines._paths import ADAPTERS, ATTRIBUTES, ENCODED, MANIFEST


def main(params: Params, report: _step.Report, subjects: Sequence[str] = ()) -> None:
    names = _tuning.subjects()
    failed: dict[str, UserError] = {}
    with contextlib.ExitStack() as stack:
        bench = _Bench(params, stack)
        for name in _tuning.require(subjects, names):
            try:
                bench.tune(name)
            except UserError as error:
                print(f"{name}: failed\n{error}", file=sys.stderr)
                failed[name] = error
    if failed:
        raise _failed(failed, len(subjects or names))
    if not subjects:
        _prune(names)
        packages = {name: Package.open(ADAPTERS / name).digest for name in names}
        replace_text(MANIFEST, json.dumps(packages, indent=2, sort_keys=True) + "\n")
        report({"adapters": len(names)})


class _Bench:
    """The base, loaded when the first subject needs it, and what is the same for all.

    What `stack` holds ends with the stage: the run that the subjects' runs are shown under.
    """

    def __init__(self, params: Params, stack: contextlib.ExitStack) -> None:
        from insitu.backbones.loading import base_digest
        from insitu.methods.dreammix.data import REGULAR, SUBJECT
        from insitu.training.recipe import Devices, Recipe, Watch
        from insitu.training.tune import Setup

        own, checkpoint = params.tune, params.models.inpaint
        shares = {SUBJECT: 1 - own.regular_share, REGULAR: own.regular_share}
        self.params = params
        self.store: Any = None
        self.parent: str | None = None
        self.stack = stack
        self.backbone = functools.lru_cache(maxsize=1)(self._load)
        self.setup = Setup(
            method=_tuning.method(params),
            base=Base(**checkpoint.model_dump(), weights_digest=base_digest(checkpoint)),
            precision=params.learning_base(own),
            device=params.device,
            recipe=Recipe.of(own.recipe(shares=shares, seed=params.seed)),
            devices=Devices(**own.devices.model_dump()),
            watch=Watch(validate=own.validate_every, save=own.save_every),
            backbone=self.backbone,
            tracking_uri=params.registry.tracking_uri,
        )

    def tune(self, name: str) -> None:
        from insitu.evaluation.placement import Reference
        from insitu.registry.store import Store
        from insitu.training.benchmark import Benchmark
        from insitu.training.run_logger import RunLogger, parent_run
        from insitu.training.tune import Source, Subject, input_digest, tune

        rows = _tuning.rows(name)
        source = Source(
            subject=Subject(
                name=name,
                class_word=rows[0][0].class_word,
                identifier=_tuning.identifier(self.params, rows[0]),
                attributes=json.loads(ATTRIBUTES.read_text())[name],
            ),
            encoded=ENCODED / "subjects" / name,
            facts=_tuning.facts(self.params, rows),
            requests=_tuning.requests(rows[0], self.params),
        )
        wanted = input_digest(source, self.setup)
        if _finished(ADAPTERS / name) == wanted:
            print(f"{name}: unchanged")
            return
        if self.store is None:
            # The server first: one that is not there is refused before a model is loaded.
            self.store = Store.connect(self.params.registry.tracking_uri)
            tags = {"stage": "adapters", "setup": self.setup.digest}
            self.parent = self.stack.enter_context(parent_run(self.store, "adapters", tags))
        tags = {"subject": name, "input": wanted}
        models = self.params.models
        package = tune(
            source, ADAPTERS / name, self.setup, show=True,
            logger=RunLogger(self.store, name, tags, parent=self.parent),
            benchmark=Benchmark(
                Reference.of(rows[0]).photos,
                {"dino": models.dino.model_dump(), "clip": models.clip.model_dump()},
            ),
        )  # fmt: skip
        print(f"{name}: {package.digest[:12]}, {package.run()['seconds']:.0f} s")

    def _load(self) -> Any:
        from insitu.backbones.loading import choose_device
        from insitu.backbones.precision import Precision
        from insitu.backbones.unet import InpaintBackbone

        _step.quiet()
        return InpaintBackbone.load(
            self.params.models.inpaint,
            device=choose_device(self.params.device),
            precision=Precision.of(self.params.learning_base(self.params.tune)),
        )


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
