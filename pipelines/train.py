"""Stage `train`: a method's adapter, learned from its encoded rows, as a package.

A finished one whose inputs are unchanged is kept, and an interrupted run continues. Run from the
repository's root:

    python -m pipelines.train eligen
"""

import argparse
import functools
import sys
from typing import Any

from insitu.errors import UserError
from insitu.methods import VALIDATION, data_of
from insitu.params import Params
from insitu.registry.package import RUN, Base, Package
from pipelines import _methods, _step
from pipelines._paths import ENCODED, TRAINED

PAINTED = 4
"""Requests that are painted to see how a training goes, at most."""


def main(params: Params, report: _step.Report, name: str) -> None:
    from insitu.backbones.loading import base_digest
    from insitu.registry.store import Store
    from insitu.training.recipe import Devices, Recipe, Watch
    from insitu.training.run_logger import RunLogger
    from insitu.training.tune import Setup, Source, input_digest, tune

    method, (_, own) = _methods.method(params, name), params.learned(name)
    checkpoint = getattr(params.models, method.base)
    pins = {"path", "revision"}
    setup = Setup(
        method=method,
        base=Base(**checkpoint.model_dump(include=pins), weights_digest=base_digest(checkpoint)),
        sizes=checkpoint.model_dump(exclude=pins),
        precision=params.learning_base(own),
        device=params.device,
        recipe=Recipe.of(own.recipe(shares={data_of(name).LEARN: 1.0}, seed=params.seed)),
        devices=Devices(**own.devices.model_dump()),
        watch=Watch(validate=own.validate_every, save=own.save_every),
        backbone=functools.partial(_load, params, name),
        tracking_uri=params.registry.tracking_uri,
    )
    source = Source(
        encoded=ENCODED / name,
        facts=_methods.facts(params, name),
        requests=_methods.requests(params, name, (VALIDATION,), PAINTED),
    )
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


def _load(params: Params, name: str) -> Any:
    from insitu.backbones import bases
    from insitu.backbones.loading import choose_device
    from insitu.backbones.precision import Precision

    _step.quiet()
    base = _methods.method(params, name).base
    return bases.load(
        base,
        getattr(params.models, base),
        device=choose_device(params.device),
        precision=Precision.of(params.learning_base(params.learned(name)[1])),
    )


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
