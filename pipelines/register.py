"""Stage `register`: every evaluated adapter in MLflow, once, as a candidate.

Run from the repository's root, with the MLflow server up: `python -m pipelines.register`.
"""

import json
import sys
from pathlib import Path

from insitu.files import replace_text
from insitu.params import Params
from insitu.registry import dvc_lock
from insitu.registry.package import Package
from insitu.registry.store import Store
from pipelines import _step
from pipelines._paths import ADAPTERS, FIGURES, MANIFEST, REGISTERED


def main(params: Params, report: _step.Report) -> None:
    store = Store.connect(params.registry.tracking_uri)
    figures = json.loads(FIGURES.read_text())
    # What the adapters were tuned on, which need not be what the subjects are by now.
    data = dvc_lock.data_behind(dvc_lock.read(Path()), "adapters")
    receipt = {}
    for name in json.loads(MANIFEST.read_text()):
        entry = store.register(Package.open(ADAPTERS / name), figures[name], data)
        # No version number: another server counts otherwise, and the receipt must not differ.
        receipt[entry.name] = entry.digest
        print(f"{entry.name}, version {entry.version}: {', '.join(entry.aliases) or 'no alias'}")
    report({"registered": len(receipt)})
    replace_text(REGISTERED, json.dumps(receipt, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(_step.run(main))
