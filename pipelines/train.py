"""Stage `train`: a method's adapter, learned from its encoded rows, as a package.

A finished one whose inputs are unchanged is kept, and an interrupted run continues. Run from the
repository's root:

    python -m pipelines.train eligen
"""

import argparse
import sys

from insitu.errors import UserError
from insitu.params import Params
from insitu.registry.package import RUN, Package
from pipelines import _step, _training
from pipelines._paths import ENCODED, TRAINED


def main(params: Params, report: _step.Report, name: str) -> None:
    from insitu.registry.store import Store
    from insitu.training.run_logger import RunLogger
    from insitu.training.tune import input_digest, tune

    setup = _training.setup(params, name, uri=params.registry.tracking_uri)
    source = _training.source(params, name, ENCODED / name)
    wanted, target = input_digest(source, setup), TRAINED / name
    if _finished(name) == wanted:
        print(f"{name}: unchanged")
        return
    # The server first: one that is not there is refused before a model is loaded.
    store = Store.connect(params.registry.tracking_uri)
    tags = {"stage": "train", "setup": setup.digest, "input": wanted}
    package = tune(source, target, setup, show=True, logger=RunLogger(store, name, tags))
    print(f"{name}: {package.digest[:12]}, {package.run()['seconds']:.0f} s")
    report({"adapter": package.digest, "seconds": package.run()["seconds"]})


def _finished(name: str) -> str | None:
    """The input digest of the whole package that lies there, None without one."""
    if not (TRAINED / name / RUN).exists():
        return None
    try:
        return str(Package.open(TRAINED / name).run().get("input_digest"))
    except UserError:
        return None  # damaged: trained again


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a method's adapter.")
    parser.add_argument("method")
    chosen = parser.parse_args().method
    sys.exit(_step.run(lambda params, report: main(params, report, chosen)))
