"""The adapter package: a folder whose digest is its name.

`adapter.safetensors` holds what was learned. `card.json` holds everything that decides how it
behaves: method, base, ranks, targets, training data, parameters, seed. Its digest covers both, so
that equal digests paint equal pictures. What does not decide behaviour (time, host, run id,
metrics) lies beside them in `run.json` and stays outside the digest.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from insitu.digest import file_digest
from insitu.errors import UserError
from insitu.files import replace_text

WEIGHTS, CARD, RUN = "adapter.safetensors", "card.json", "run.json"
Digest = Field(pattern=r"^[0-9a-f]{64}$")


class Base(BaseModel):
    """The checkpoint that an adapter was trained on, pinned by the digest of its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    revision: str | None
    weights_digest: str = Digest


class Card(BaseModel):
    """Everything that decides how an adapter behaves, apart from its weights.

    Attributes:
        format: version of this layout.
        method: name of the method, its folder and its key in params.yaml.
        subject: the subject it was tuned on; None for one that serves every subject.
        class_word: what kind of thing the subject is.
        identifier: what stands before the class word where a prompt means the subject.
        attributes: words for how the subject looks, by kind: what a prompt may replace.
        base: the checkpoint it was trained on.
        data_digest: digest of the training data.
        settings: the method's own parameters.
        seed: of the training.
        weights_sha256: of `adapter.safetensors`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    method: str = Field(min_length=1)
    subject: str | None
    class_word: str | None
    identifier: str | None
    attributes: dict[str, list[str]] | None = None
    base: Base
    data_digest: str = Digest
    settings: dict[str, Any]
    seed: int
    weights_sha256: str = Digest

    @property
    def digest(self) -> str:
        """SHA-256 over this card, which names the weights by theirs: the package's name.

        Where the base lies does not decide what it paints, so only its weights' digest counts.
        """
        counted = self.model_dump(exclude={"base": {"path", "revision"}})
        return hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()

    def text(self) -> str:
        """Canonical JSON: equal cards are equal bytes."""
        return json.dumps(self.model_dump(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


class Package(BaseModel):
    """A package on disk whose content was found to be what its card says."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    card: Card

    @property
    def digest(self) -> str:
        return self.card.digest

    @property
    def name(self) -> str:
        """What it is registered as: `<method>`, or `<method>.<subject>`."""
        subject = self.card.subject
        return f"{self.card.method}.{subject}" if subject else self.card.method

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def run(self) -> dict[str, Any]:
        """What `run.json` says; empty without one."""
        path = self.folder / RUN
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read and verify a package.

        Raises:
            UserError: a file is missing, the card does not parse, or the weights are not those
                that the card names.
        """
        card_path, weights = folder / CARD, folder / WEIGHTS
        for path in (card_path, weights):
            if not path.is_file():
                raise UserError(
                    f"The adapter package {folder} was given.",
                    f"It has no {path.name}.",
                    "Give the folder of a finished adapter, or tune the subject again.",
                )
        try:
            card = Card.model_validate_json(card_path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            problem = (
                error.errors(include_url=False)[0]["msg"]
                if isinstance(error, ValidationError)
                else "it is not UTF-8"
            )
            raise UserError(
                f"The adapter package {folder} was given.",
                f"Its {CARD} is not one of this version: {problem}.",
                "Restore the package, or tune the subject again.",
            ) from None
        found = file_digest(weights)
        if found != card.weights_sha256:
            raise UserError(
                f"The adapter package {folder} was given.",
                f"Its weights have the digest {found[:12]} and not the card's"
                f" {card.weights_sha256[:12]}: they were damaged or exchanged.",
                "Restore the package from where it was registered, or tune the subject again.",
            )
        return cls(folder=folder, card=card)

    def require_base(self, weights_digest: str) -> None:
        """Refuse a base other than the one trained on.

        Raises:
            UserError: `weights_digest` is of other weights than the card's base.
        """
        wanted = self.card.base.weights_digest
        if weights_digest != wanted:
            raise UserError(
                f"The adapter {self.digest[:12]} ({self.card.method}, {self.card.subject}) was to "
                f"be loaded on a base with the digest {weights_digest[:12]}.",
                f"It was trained on {self.card.base.path} with the digest {wanted[:12]}; on other "
                "weights it means nothing.",
                "Set that base in params.yaml, or tune the subject again on this one.",
            )


def write_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write `run.json`: facts that do not decide how the adapter behaves."""
    replace_text(folder / RUN, json.dumps(dict(facts), indent=2, sort_keys=True) + "\n")
