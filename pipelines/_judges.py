"""Who judges pictures on a benchmark."""

from typing import Any

from insitu.backbones.loading import base_digest
from insitu.digest import code_digest
from insitu.params import Params

CODE = ("evaluation/placement", "evaluation/trained", "evaluation/tuned", "evaluation/metrics")
"""That decides what is asked and how it is judged."""


def judges(params: Params, *names: str) -> dict[str, Any]:
    """The digests of models, by their names in params.yaml, and of the code."""
    digests = {name: base_digest(getattr(params.models, name)) for name in names}
    return {"judges": digests, "code": code_digest(*CODE)[:16]}
