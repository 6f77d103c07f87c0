"""How a method that learns from data sets is trained: what `train` and `claims` have in common."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.methods import VALIDATION, data_of
from insitu.params import Params
from insitu.registry.package import Base
from pipelines import _methods, _step

if TYPE_CHECKING:
    from insitu.training.tune import Setup, Source

PAINTED = 4
"""Requests that are painted to see how a training goes, at most."""
PINS = {"path", "revision"}


def setup(
    params: Params, name: str, backbone: Callable[[], Any] | None = None, uri: str | None = None
) -> "Setup":
    """How it is trained, by params.yaml.

    Args:
        backbone: loads the base; by default anew.
        uri: where runs of several processes are logged.
    """
    from insitu.backbones.loading import base_digest
    from insitu.training import start
    from insitu.training.recipe import Devices, Recipe, Watch
    from insitu.training.tune import Setup

    method, (_, own) = _methods.method(params, name), params.learned(name)
    checkpoint = getattr(params.models, method.base)
    base = Base(**checkpoint.model_dump(include=PINS), weights_digest=base_digest(checkpoint))
    begun = None if own.start is None else start.require(own.start, name, base.weights_digest)
    return Setup(
        method=method,
        base=base,
        sizes=checkpoint.model_dump(exclude=PINS),
        precision=params.learning_base(own),
        device=params.device,
        recipe=Recipe.of(own.recipe(shares={data_of(name).LEARN: 1.0}, seed=params.seed)),
        devices=Devices(**own.devices.model_dump()),
        watch=Watch(validate=own.validate_every, save=own.save_every),
        backbone=backbone or functools.partial(load, params, name),
        tracking_uri=uri,
        start=begun,
    )


def source(params: Params, name: str, encoded: Path, data: Path = _methods.DATA) -> "Source":
    """What it learns from: rows of data sets in `data`, as they were encoded."""
    from insitu.training.tune import Source

    return Source(
        encoded=encoded,
        facts=_methods.facts(params, name, data),
        requests=_methods.requests(params, name, (VALIDATION,), PAINTED),
    )


def load(params: Params, name: str) -> Any:
    """The base, as it is held while an adapter learns on it."""
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
