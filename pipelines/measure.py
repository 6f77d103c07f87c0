"""Stage `measure`: a method's adapter against its untrained self, on requests no training saw.

Run from the repository's root:

    python -m pipelines.measure eligen
"""

import argparse
import json
import sys

from insitu.files import replace_text, replacing
from insitu.params import Params
from insitu.registry.package import Package
from pipelines import _step
from pipelines._paths import MEASUREMENT, TRAINED, TRAINED_REPORTS


def main(params: Params, report: _step.Report, name: str) -> None:
    _step.quiet()
    from PIL import Image

    from insitu.evaluation import tables, trained, trained_page
    from insitu.evaluation.findings import figures
    from insitu.evaluation.gallery.writing import write
    from pipelines._trained_benchmark import TrainedBenchmark

    benchmark = TrainedBenchmark(params)
    done = benchmark.trial(Package.open(TRAINED / name))
    summary = trained.summarize(done, seed=params.seed)
    with replacing(TRAINED_REPORTS / name) as fresh:
        write(trained_page.make(done, summary, title=f"{name}, trained and not"), fresh)
        Image.fromarray(trained_page.overview(done)).save(fresh / "overview.png")
        tables.write(fresh / tables.NAME, trained.rows(done))
        (fresh / MEASUREMENT).write_text(benchmark.measurement(name, done).model_dump_json())
    told = {metric: figures(found, trained.WAYS) for metric, found in summary.items()}
    replace_text(TRAINED_REPORTS / f"{name}.json", json.dumps(told, indent=2) + "\n")
    shown = {}
    for metric, found in summary.items():
        c, failed = found.comparison, (found.first_failed, found.second_failed)
        worst = f"  failed {failed[0]} and {failed[1]}" if any(failed) else ""
        shown[f"{metric}_gain"] = str(c.difference)
        print(
            f"{metric:16} trained {c.first}  untrained {c.second}  difference {c.difference}{worst}"
        )
    page = TRAINED_REPORTS / name / "index.html"
    report(shown | {"page": str(page), "overview": str(TRAINED_REPORTS / name / "overview.png")})
    print(f"wrote {page}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a trained method.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
