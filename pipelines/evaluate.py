"""Stage `evaluate`: tuned adapters against the untuned base, in figures and on a page.

Run from the repository's root: `python -m pipelines.evaluate`.
"""

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from insitu.files import replace_text, replacing
from insitu.params import Params
from insitu.registry.package import Package
from pipelines import _step
from pipelines._paths import (
    ADAPTERS,
    FIGURES,
    MANIFEST,
    MEASURED,
    METRICS,
    OVERVIEW,
    PLOTS,
    TUNED_PAGE,
)


def main(params: Params, report: _step.Report) -> None:
    _step.quiet()
    from PIL import Image

    from insitu.evaluation import tuned, tuned_page
    from insitu.evaluation.gallery.writing import write
    from pipelines._tuned_benchmark import TunedBenchmark

    benchmark = TunedBenchmark(params)
    packages = [Package.open(ADAPTERS / name) for name in json.loads(MANIFEST.read_text())]
    trials = [benchmark.trial(package) for package in packages]
    summary = tuned.summarize(trials, seed=params.seed)
    with replacing(TUNED_PAGE) as fresh:
        write(tuned_page.make(trials, benchmark.rooms, summary), fresh)
    Image.fromarray(tuned_page.overview(trials)).save(OVERVIEW)
    with replacing(PLOTS) as fresh:
        _write_plots(trials, fresh)
    with replacing(MEASURED) as fresh:
        for done in trials:
            found = benchmark.measurement(done).model_dump_json()
            (fresh / f"{done.subject}.json").write_text(found)
    alone = {t.subject: _figures(tuned.summarize([t], seed=params.seed)) for t in trials}
    replace_text(METRICS, json.dumps(_figures(summary), indent=2) + "\n")
    replace_text(FIGURES, json.dumps(alone, indent=2) + "\n")
    for name, own in summary.items():
        c, failed = own.comparison, (own.first_failed, own.second_failed)
        print(
            f"{name:18} tuned {c.first}  untuned {c.second}  difference "
            f"{c.difference}" + (f"  failed {failed[0]} and {failed[1]}" if any(failed) else "")
        )
    report(
        {f"{name}_gain": str(own.comparison.difference) for name, own in summary.items()}
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
