"""Stage `adapters`: an adapter package for every subject.

Finished ones whose inputs are unchanged are kept, so an interrupted run continues and a new subject
costs only itself. Run from the repository's root:

    python -m pipelines.adapters                  # all subjects, then prune and list them
    python -m pipelines.adapters --subject NAME   # one of them, and nothing else
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.params import Params
from insitu.records import read
from insitu.records.engines import RegularPhoto
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import RUN, Package
from pipelines import _step
from pipelines._paths import ADAPTERS, MANIFEST, REGULARIZATION, SUBJECTS


def main(params: Params, report: _step.Report, subject: str | None = None) -> None:
    names = sorted(path.name for path in SUBJECTS.iterdir() if path.is_dir())
    if subject is not None and subject not in names:
        raise UserError(
            f"The subject {subject!r} was to be tuned on.",
            f"There are no photos of it in {SUBJECTS}.",
            f"Use one of: {', '.join(names)}; or run the stage `subjects` first.",
        )
    bench = _Bench(params)
    for name in names if subject is None else [subject]:
        bench.tune(name)
    if subject is None:
        _prune(names)
        packages = {name: Package.open(ADAPTERS / name).digest for name in names}
        replace_text(MANIFEST, json.dumps(packages, indent=2, sort_keys=True) + "\n")
        report({"adapters": len(names)})


class _Bench:
    """The base and the method, loaded when the first subject needs them."""

    def __init__(self, params: Params) -> None:
        from insitu.training.tune import Plan

        settings = params.tune
        self.params = params
        self.plan = Plan(
            steps=settings.steps,
            batch=settings.batch,
            lr=settings.lr,
            cooldown=settings.cooldown,
            drop=settings.drop,
            grow=settings.grow,
            identifier=settings.identifier,
            regular_share=settings.regular_share,
            context=settings.dreammix.context,
            seed=params.seed,
            validate_every=settings.validate_every,
            save_every=settings.save_every,
        )
        self.backbone: Any = None
        self.store: Any = None

    def tune(self, name: str) -> None:
        from insitu.backbones.loading import base_digest, choose_device
        from insitu.methods import find
        from insitu.registry.store import Store
        from insitu.training.run_logger import RunLogger
        from insitu.training.tune import input_digest, tune

        photos = list(read(SUBJECTS / name, SubjectPhoto))
        settings = getattr(self.params.tune, self.params.tune.method).model_dump()
        method = find(self.params.tune.method, settings)
        base = self.params.models.sdxl_inpaint
        regular = list(read(REGULARIZATION / name, RegularPhoto))
        wanted = input_digest(photos, regular, self.plan, method, base_digest(base))
        if _finished(ADAPTERS / name) == wanted:
            print(f"{name}: unchanged")
            return
        if self.backbone is None:
            # The server first: one that is not there is refused before a model is loaded.
            self.store = Store.connect(self.params.registry.tracking_uri)
            _step.quiet()
            from insitu.backbones.unet import InpaintBackbone

            self.backbone = InpaintBackbone.load(base, device=choose_device(self.params.device))
        package = tune(
            photos,
            ADAPTERS / name,
            regular=regular,
            plan=self.plan,
            method=method,
            backbone=self.backbone,
            logger=RunLogger(self.store, name, {"subject": name, "input": wanted}),
            progress=True,
        )
        print(f"{name}: {package.digest[:12]}, {package.run()['seconds']:.0f} s")


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
    parser.add_argument("--subject", help="only this one; nothing is pruned or listed")
    chosen = parser.parse_args().subject
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
