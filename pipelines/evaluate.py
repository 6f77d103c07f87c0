"""Stage `evaluate`: tuned adapters against the untuned base, in figures and on a page.

Run from the repository's root: `python -m pipelines.evaluate`.
"""

import csv
import functools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from insitu.files import replace_text, replacing
from insitu.params import Params
from insitu.records import read
from insitu.records.subjects import SubjectPhoto
from insitu.registry.package import Package
from pipelines import _step
from pipelines._paths import (
    ADAPTERS,
    FIGURES,
    MANIFEST,
    METRICS,
    OVERVIEW,
    PLOTS,
    SUBJECTS,
    TUNED_PAGE,
)


def main(params: Params, report: _step.Report) -> None:
    _step.quiet()
    from PIL import Image
    from safetensors.torch import load_file

    from insitu.backbones.loading import choose_device, load_pretrained
    from insitu.backbones.precision import Precision
    from insitu.backbones.unet import InpaintBackbone
    from insitu.evaluation import tuned, tuned_page
    from insitu.evaluation.checkpoints.judging import PRESENT
    from insitu.evaluation.gallery.writing import write
    from insitu.evaluation.placement import places
    from insitu.methods import find
    from insitu.perception.clip import ClipScorer
    from insitu.perception.detector import ZeroShotDetector
    from insitu.perception.dino import IdentityEncoder

    device, settings = choose_device(params.device), params.evaluate
    held = Precision.of(params.painting_base())
    backbone = InpaintBackbone.load(params.models.inpaint, device=device, precision=held)
    metrics = tuned.make_metrics(
        clip=load_pretrained(ClipScorer, params.models.clip, device=device),
        dino=load_pretrained(IdentityEncoder, params.models.dino, device=device),
        detector=load_pretrained(ZeroShotDetector, params.models.detector, device=device),
        threshold=PRESENT,
    )
    rooms = places(settings.scenes, size=settings.size, seed=params.seed)
    trials = []
    for name in json.loads(MANIFEST.read_text()):
        package = Package.open(ADAPTERS / name)
        package.require_base(backbone.digest)
        method = find(package.card.method, package.card.settings["method"])

        def paint_tuned(requests: Sequence[Any], method: Any = method, p: Package = package) -> Any:
            method.load(backbone, load_file(p.weights))
            try:
                return method.paint(backbone, requests)
            finally:
                method.detach(backbone)

        trials.append(
            tuned.trial(
                list(read(SUBJECTS / name, SubjectPhoto)), rooms, seeds=settings.seeds,
                seed=params.seed, identifier=str(package.card.identifier),
                paint_tuned=paint_tuned, metrics=metrics,
                paint_untuned=functools.partial(method.paint, backbone),
            )
        )  # fmt: skip
    summary = tuned.summarize(trials, seed=params.seed)
    with replacing(TUNED_PAGE) as fresh:
        write(tuned_page.make(trials, rooms, summary), fresh)
    Image.fromarray(tuned_page.overview(trials)).save(OVERVIEW)
    with replacing(PLOTS) as fresh:
        _write_plots(trials, fresh)
    alone = {t.subject: _figures(tuned.summarize([t], seed=params.seed)) for t in trials}
    replace_text(METRICS, json.dumps(_figures(summary), indent=2) + "\n")
    replace_text(FIGURES, json.dumps(alone, indent=2) + "\n")
    for name, found in summary.items():
        c, failed = found.comparison, (found.first_failed, found.second_failed)
        print(
            f"{name:18} tuned {c.first}  untuned {c.second}  difference "
            f"{c.difference}" + (f"  failed {failed[0]} and {failed[1]}" if any(failed) else "")
        )
    report(
        {f"{name}_gain": str(found.comparison.difference) for name, found in summary.items()}
        | {"page": str(TUNED_PAGE / "index.html"), "overview": str(OVERVIEW)}
    )
    print(f"wrote {TUNED_PAGE / 'index.html'}")


def _write_plots(trials: Sequence[Any], folder: Path) -> None:
    """For `dvc plots`: a row a picture both ways, and each subject's validation loss."""
    rows = [
        (trial.subject, place, seed, f"{untuned[seed]:.4f}", f"{tuned[seed]:.4f}")
        for trial in trials
        for place, (untuned, tuned) in enumerate(
            zip(*map(trial.values, _both(trial, "dino")), strict=True)
        )
        for seed in range(len(tuned))
    ]
    _write_table(folder / "dino.csv", ("subject", "place", "seed", "untuned", "tuned"), rows)
    losses = [
        (trial.subject, line["step"], line["validation_loss"])
        for trial in trials
        for line in map(
            json.loads, (ADAPTERS / trial.subject / "validation.jsonl").read_text().splitlines()
        )
    ]
    _write_table(folder / "validation.csv", ("subject", "step", "validation_loss"), losses)


def _both(trial: Any, metric: str) -> tuple[Any, Any]:
    return trial.untuned_scores[metric], trial.tuned_scores[metric]


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def _figures(summary: Any) -> dict[str, Any]:
    from insitu.evaluation.findings import figures
    from insitu.evaluation.tuned_page import WAYS

    return {name: figures(found, WAYS) for name, found in summary.items()}


if __name__ == "__main__":
    sys.exit(_step.run(main))
