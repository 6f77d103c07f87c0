"""Stage `register`: every evaluated adapter in MLflow, once, as a candidate.

Run from the repository's root, with the MLflow server up: `python -m pipelines.register`.
"""

import json
import sys
from pathlib import Path

from insitu.files import replace_text
from insitu.params import Params
from insitu.registry.package import Package
from insitu.registry.store import Store
from pipelines import _step
from pipelines.adapters import MANIFEST
from pipelines.adapters import OUT as ADAPTERS
from pipelines.evaluate import SUBJECTS_FIGURES

OUT = Path("data/registered.json")


def main(params: Params, report: _step.Report) -> None:
    store = Store.connect(params.registry.tracking_uri)
    figures = json.loads(SUBJECTS_FIGURES.read_text())
    receipt = {}
    for name in json.loads((ADAPTERS / MANIFEST).read_text()):
        entry = store.register(Package.open(ADAPTERS / name), figures[name])
        # No version number: another server counts otherwise, and the receipt must not differ.
        receipt[entry.name] = entry.digest
        print(f"{entry.name}, version {entry.version}: {', '.join(entry.aliases) or 'no alias'}")
    report({"registered": len(receipt)})
    replace_text(OUT, json.dumps(receipt, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(_step.run(main))
