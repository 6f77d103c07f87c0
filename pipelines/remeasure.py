"""Measure a registered version on today's benchmark, and keep that beside it, for the gate.

The stages `evaluate` and `measure` do so for what was just trained. A champion of earlier, or of
another branch, is measured by this. Run from the repository's root:

    python -m pipelines.remeasure dreammix.mug-1 champion
"""

import argparse
import sys
import tempfile
from pathlib import Path

from insitu.evaluation.measurement import Measurement
from insitu.params import Params
from insitu.registry.package import Package
from insitu.registry.signature import Keys
from insitu.registry.store import Store
from pipelines import _step


def main(params: Params, report: _step.Report, name: str, version: str) -> None:
    own = params.registry
    store = Store.connect(own.tracking_uri, Keys.of(own.private_key, own.public_key))
    entry = store.entry(name, version)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(params, store.fetch(entry, Path(folder)))
    store.keep_measurement(entry, found.digest, found.model_dump_json())
    print(f"{entry.name}, version {entry.version}: measured on {found.digest[:12]}")
    report({"benchmark": found.digest})


def measure(params: Params, package: Package) -> Measurement:
    """What comes of a package on the benchmark of its kind."""
    _step.quiet()
    if package.card.subject is None:
        from pipelines._trained_benchmark import TrainedBenchmark

        methods = TrainedBenchmark(params)
        return methods.measurement(package.card.method, methods.trial(package))
    from pipelines._tuned_benchmark import TunedBenchmark

    subjects = TunedBenchmark(params)
    return subjects.measurement(subjects.trial(package))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure a registered version.")
    parser.add_argument("name")
    parser.add_argument("version", nargs="?", default="candidate")
    chosen = parser.parse_args()
    sys.exit(_step.run(lambda params, report: main(params, report, chosen.name, chosen.version)))
