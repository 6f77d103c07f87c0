"""The methods: a folder is a paper. All answer the same four verbs, and none imports another.

Training, evaluation and serving know these verbs only:

    attach(backbone)                    -> the adapter: everything that learns
    condition(backbone, examples)       -> what the frozen encoders say of them
    loss(backbone, told, noise, t)      -> named terms, one value for each example
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
Told = dict[str, Tensor]
"""What a model is told of a batch: tensors [B, ...] by name, the clean latents as `z_0`, encoded
prompts as `text.<name>`; `dropped.<name>` [B] is true where that condition is withheld."""
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
class Example:
    """What is learned from: a picture, the part of it that is to be filled, and its prompt.

    Attributes:
        id: unlike any other in the data set.
        image: uint8 [H, W, 3], its sides multiples of the base's stride.
        mask: uint8 [H, W], 255 = fill.
        prompt: what is to be seen.
        pool: which share of a batch it belongs to; `VALIDATION` is only looked at.
    """

    id: str
    image: Image
    mask: Image
    prompt: str
    pool: str


VALIDATION = "validation"


class Method(Protocol):
    """What every method answers; `name` is its folder, its key in params.yaml and its tag.

    `settings` is a frozen dataclass.
    """

    name: str
    settings: Any

    def attach(self, backbone: Any) -> nn.Module:
        """Put what learns into the backbone, with random weights; the parameters to train."""
        ...

    def detach(self, backbone: Any) -> None:
        """Take it out again; the base is then bit for bit what it was."""
        ...

    def state(self, backbone: Any) -> dict[str, Tensor]:
        """The adapter's weights by their published names; on several devices all ask together."""
        ...

    def load(self, backbone: Any, state: Mapping[str, Tensor]) -> None:
        """Attach and fill from `state`. Raises UserError for a missing or unknown name."""
        ...

    def condition(self, backbone: Any, examples: Sequence[Example]) -> Told:
        """What frozen encoders say of examples of one size, apart from their prompts.

        It follows from the examples alone, so it is encoded once and kept.
        """
        ...

    def loss(self, backbone: Any, told: Told, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
        """Named terms, each [B]; the mean over the batch of their sum is differentiated.

        Args:
            noise: as large as `told["z_0"]`.
            t: [B] in [0, 1), 1 = noise.
        """
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
