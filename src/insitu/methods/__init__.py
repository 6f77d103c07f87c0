"""The methods: a folder is a paper. All answer the same four verbs, and none imports another.

Training, evaluation and serving know these verbs only:

    attach(backbone)                    -> the adapter: everything that learns
    condition(backbone, batch)          -> what the model is told
    loss(backbone, batch, noise, t)     -> named terms
    paint(backbone, requests)           -> pictures
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from insitu.errors import UserError

Image = NDArray[np.uint8]
NAMES = ("dreammix",)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One picture to be made.

    Attributes:
        image: the photo, uint8 [H, W, 3].
        box_xyxy01: where the subject goes, in shares of the photo's width and height.
        prompt: what is to be seen there, the identifier in place of the subject's name.
        seed: decides the picture, with all else equal.
    """

    image: Image
    box_xyxy01: tuple[float, float, float, float]
    prompt: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training samples.

    Attributes:
        images: uint8 [B, H, W, 3].
        masks: uint8 [B, H, W], 255 = fill.
        prompts: one for each.
        regular: [B], a regularization image rather than one of the subject.
    """

    images: Image
    masks: Image
    prompts: tuple[str, ...]
    regular: NDArray[np.bool_]


class Method(Protocol):
    """What every method answers; `name` is its folder, its key in params.yaml and its tag."""

    name: str

    def attach(self, backbone: Any) -> nn.Module:
        """Put what learns into the backbone, with random weights; the parameters to train."""
        ...

    def detach(self, backbone: Any) -> None:
        """Take it out again; the base is then bit for bit what it was."""
        ...

    def state(self, backbone: Any) -> dict[str, Tensor]:
        """The adapter's weights by their published names."""
        ...

    def load(self, backbone: Any, state: Mapping[str, Tensor]) -> None:
        """Attach and fill from `state`. Raises UserError for a missing or unknown name."""
        ...

    def condition(self, backbone: Any, batch: Any) -> Any:
        """What the model is told about a batch, without gradient."""
        ...

    def loss(self, backbone: Any, batch: Any, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Named scalar terms, whose sum is differentiated; `t` [B] in [0, 1), 1 = noise."""
        ...

    def paint(self, backbone: Any, requests: Sequence[Request]) -> list[Image]:
        """One picture a request, each as large as its photo."""
        ...


def find(name: str, settings: Mapping[str, Any]) -> Method:
    """The method of a name with its settings, plain values by name.

    Raises:
        UserError: there is no such method.
    """
    if name not in NAMES:
        raise UserError(
            f"The method {name!r} was asked for.",
            "There is no such method.",
            f"Use one of: {', '.join(NAMES)}.",
        )
    method: Method = importlib.import_module(f"insitu.methods.{name}").make(settings)
    return method
