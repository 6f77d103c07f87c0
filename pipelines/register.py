"""Stage `register`: every measured adapter of a method in MLflow, once, as a candidate.

Run from the repository's root, with the MLflow server up:

    python -m pipelines.register dreammix       # an adapter for each tuned subject
    python -m pipelines.register eligen         # the one that serves every subject
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from insitu.evaluation.measurement import Measurement
from insitu.files import replace_text
from insitu.params import Params
from insitu.registry import dvc_lock
from insitu.registry.package import Package
from insitu.registry.signature import Keys
from insitu.registry.store import Store
from pipelines import _step
from pipelines._paths import (
    ADAPTERS,
    FIGURES,
    MANIFEST,
    MEASURED,
    MEASUREMENT,
    REGISTERED,
    TRAINED,
    TRAINED_REPORTS,
)


def main(params: Params, report: _step.Report, name: str) -> None:
    own = params.registry
    store = Store.connect(own.tracking_uri, Keys.of(own.private_key, own.public_key))
    tuned = name == params.tune.method
    # What the adapters learned from, which need not be what those data sets are by now.
    lock = dvc_lock.read(Path())
    data = dvc_lock.data_behind(lock, "adapters" if tuned else f"train@{name}")
    receipt = {}
    for package, figures, file in _tuned() if tuned else _trained(name):
        entry = store.register(package, figures, data)
        text = file.read_text(encoding="utf-8")
        store.keep_measurement(entry, Measurement.read(text, str(file)).digest, text)
        # No version number: another server counts otherwise, and the receipt must not differ.
        receipt[entry.name] = entry.digest
        print(f"{entry.name}, version {entry.version}: {', '.join(entry.aliases) or 'no alias'}")
    report({"registered": len(receipt)})
    replace_text(REGISTERED / f"{name}.json", json.dumps(receipt, indent=2, sort_keys=True) + "\n")


Measured = tuple[Package, Any, Path]
"""A package, its figures for people, and the file of its measurement."""


def _tuned() -> Iterator[Measured]:
    figures = json.loads(FIGURES.read_text())
    for subject in json.loads(MANIFEST.read_text()):
        yield Package.open(ADAPTERS / subject), figures[subject], MEASURED / f"{subject}.json"


def _trained(name: str) -> Iterator[Measured]:
    figures = json.loads((TRAINED_REPORTS / f"{name}.json").read_text())
    yield Package.open(TRAINED / name), figures, TRAINED_REPORTS / name / MEASUREMENT


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Register a method's adapters.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
