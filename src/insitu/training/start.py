"""Where an adapter starts from: at another's weights, as far as it has the same parts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from insitu.errors import UserError
from insitu.methods import Method
from insitu.registry.package import Package


def require(folder: str | Path, method: str, base_digest: str) -> Package:
    """The package that is started from.

    Raises:
        UserError: it is damaged, of another method, or of another base.
    """
    package = Package.open(Path(folder))
    if package.card.method != method:
        raise UserError(
            f"{method} was to start from {folder}.",
            f"That is an adapter of {package.card.method}, whose parts mean something else.",
            f"Give one of {method}, or set start to null.",
        )
    package.require_base(base_digest)
    return package


def begin(method: Method, backbone: Any, start: Mapping[str, Tensor]) -> None:
    """Give an attached adapter the weights of `start`; parts that `start` lacks stay at random.

    Parts that only `start` has are left out: so a variant without a part starts where the whole
    method does.

    Raises:
        UserError: they have no part in common, or one has another shape.
    """
    own = method.state(backbone)
    shared = {name: weight for name, weight in start.items() if name in own}
    other = [name for name, weight in shared.items() if weight.shape != own[name].shape]
    if other or not shared:
        name = other[0] if other else next(iter(start), "nothing")
        raise UserError(
            f"{method.name} was to start from an adapter with {len(start)} tensors.",
            f"Its {name} is {tuple(start[name].shape)}, here it is {tuple(own[name].shape)}."
            if other
            else f"None of them is a part of this one; its first is {name}.",
            "Start from one with the same ranks and targets, or set start to null.",
        )
    method.fill(backbone, {**own, **shared})
