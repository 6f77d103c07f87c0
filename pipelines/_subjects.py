"""How a subject's adapter is tuned: what the stages `adapters` and `claims` have in common."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insitu.methods.dreammix import data
from insitu.params import Params
from insitu.registry.package import Base
from pipelines import _tuning
from pipelines._paths import ATTRIBUTES

if TYPE_CHECKING:
    from insitu.training.tune import Setup, Source


def setup(params: Params, backbone: Callable[[], Any], uri: str | None = None) -> "Setup":
    """What is the same for all subjects.

    Args:
        backbone: loads the base.
        uri: where runs of several processes are logged.
    """
    from insitu.backbones.loading import base_digest
    from insitu.training import start
    from insitu.training.recipe import Devices, Recipe, Watch
    from insitu.training.tune import Setup

    own, checkpoint = params.tune, params.models.inpaint
    base = Base(**checkpoint.model_dump(), weights_digest=base_digest(checkpoint))
    shares = {data.SUBJECT: 1 - own.regular_share, data.REGULAR: own.regular_share}
    return Setup(
        method=_tuning.method(params),
        base=base,
        precision=params.learning_base(own),
        device=params.device,
        recipe=Recipe.of(own.recipe(shares=shares, seed=params.seed)),
        devices=Devices(**own.devices.model_dump()),
        watch=Watch(validate=own.validate_every, save=own.save_every),
        backbone=backbone,
        tracking_uri=uri,
        start=start.require(own.start, own.method, base.weights_digest) if own.start else None,
    )


def source(
    params: Params, name: str, rows: _tuning.Rows, encoded: Path, root: Path = Path()
) -> "Source":
    """What a subject's adapter learns from, as it was encoded."""
    from insitu.training.tune import Source, Subject

    return Source(
        subject=Subject(
            name=name,
            class_word=rows[0][0].class_word,
            identifier=_tuning.identifier(params, rows[0]),
            attributes=json.loads((root / ATTRIBUTES).read_text())[name],
        ),
        encoded=encoded,
        facts=_tuning.facts(params, rows),
        requests=_tuning.requests(rows[0], params),
    )
