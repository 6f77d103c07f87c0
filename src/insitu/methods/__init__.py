"""The methods: a folder is a paper. All answer the same four verbs, and none imports another.

Training, evaluation and serving know these verbs only:

    attach(backbone)                    -> the adapter: everything that learns
    condition(backbone, examples)       -> what the frozen encoders say of them
    loss(backbone, told, noise, t)      -> named terms, one value for each example
    paint(backbone, requests)           -> pictures
"""

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from insitu.backbones.loading import base_digest
from insitu.errors import UserError
from insitu.params import Checkpoint
from insitu.params.base import Models
from insitu.records import Record
from insitu.requests import Accepts, Box, Example, Image, Placement, Request

__all__ = [
    "NAMES",
    "VALIDATION",
    "Accepts",
    "Box",
    "Data",
    "Example",
    "Image",
    "Method",
    "Placement",
    "Request",
    "Told",
    "data_of",
    "find",
    "loaded",
    "pinned",
]

Told = dict[str, Tensor]
"""What a model is told of a batch: tensors [B, ...] by name, the clean latents as `z_0`, encoded
prompts as `text.<name>`. In training also `dropped.<name>` [B], true where that condition is
withheld; `chances` [B, 16], uniform in 0..1, each example's own at each step; and `progress` [B],
the share of the training that is done, 0..1."""
NAMES = ("anyphoto", "dreammix", "eligen", "inpaint_anywhere", "lar_gen", "uno")
VALIDATION = "validation"
"""The pool of examples that are only looked at."""


class Method(Protocol):
    """What every method answers.

    Attributes:
        name: its folder, its key in params.yaml and its tag.
        base: which checkpoint it works on, by its key in `models`.
        accepts: what a request may hold.
        drops: conditions that it can do without in a step of training, beside the text.
        settings: a frozen dataclass.
    """

    name: str
    base: str
    accepts: Accepts
    drops: frozenset[str]
    settings: Any

    def untrained(self) -> "Method":
        """What its training is measured against: itself, or what it adds nothing to."""
        ...

    def attach(self, backbone: Any) -> nn.Module:
        """Put what learns into the backbone, with random weights; the parameters to train."""
        ...

    def detach(self, backbone: Any) -> None:
        """Take it out again; the base is then bit for bit what it was."""
        ...

    def state(self, backbone: Any) -> dict[str, Tensor]:
        """The adapter's weights by their published names; on several devices all ask together."""
        ...

    def fill(self, backbone: Any, state: Mapping[str, Tensor]) -> None:
        """Give what was attached these weights, which then learns as before.

        Raises:
            UserError: a name is missing or unknown, or a shape is another.
        """
        ...

    def load(self, backbone: Any, state: Mapping[str, Tensor]) -> None:
        """Attach, fill and freeze; where `fill` refuses, nothing stays attached."""
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


class Data(Protocol):
    """A method's module `data`, of those that learn from data sets: rows become examples.

    Attributes:
        SETS: record types by the name of the data set that they are read from.
        LEARN: the pool of what is learned from.
        ENCODED: names of the settings that decide what examples and `condition` say; with others
            changed, what was encoded is good still.
    """

    SETS: Mapping[str, type[Record]]
    LEARN: str
    ENCODED: Sequence[str]

    def examples(
        self, rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int
    ) -> Iterator[Example]:
        """What is learned from, and examples of the pool `VALIDATION`; pictures have `size`.

        Args:
            rows: kept ones, by data set; they may be gone through again.
            settings: the method's.
        """
        ...

    def requests(
        self, rows: Mapping[str, Iterable[Any]], settings: Any, *, size: int, seed: int, split: str
    ) -> Iterator[Request]:
        """Rows of a split as they would be asked for, in their order."""
        ...


def data_of(name: str) -> Data:
    """The data module of a method."""
    module: Any = importlib.import_module(f"insitu.methods.{name}.data")
    found: Data = module
    return found


def pinned(name: str, settings: Mapping[str, Any], models: Models) -> dict[str, Any]:
    """A method's settings with the models, beside its base, that it looks at things with.

    A method's package names them in `MODELS`, by their keys in `models`; under the same keys the
    settings get path, revision and the digest of the weights, so that an adapter's card pins them.
    """
    module = importlib.import_module(f"insitu.methods.{name}")
    found = dict(settings)
    for key in getattr(module, "MODELS", ()):
        checkpoint: Checkpoint = getattr(models, key)
        found[key] = checkpoint.model_dump() | {"digest": base_digest(checkpoint)}
    return found


def loaded(method: Method, backbone: Any, state: Mapping[str, Tensor]) -> None:
    """`load` of most methods: attached and filled, or neither."""
    method.attach(backbone)
    try:
        method.fill(backbone, state)
    except UserError:
        method.detach(backbone)
        raise


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
