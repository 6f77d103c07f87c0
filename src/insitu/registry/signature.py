"""Signatures of packages, by a key (model-signing's format, OpenSSF Model Signing 1.0).

The digest says that a package is whole, the signature who made it. It covers the card and the
weights, and nothing beside them.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from insitu.errors import UserError
from insitu.registry.package import CARD, WEIGHTS, Package

SIGNATURE = "model.sig"
PASSWORD = "INSITU_KEY_PASSWORD"
"""The environment variable with the private key's password, where it has one."""


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Files in PEM, by which packages are signed and checked; None = they are not."""

    private: Path | None = None
    public: Path | None = None

    @classmethod
    def of(cls, private: str | None, public: str | None) -> Self:
        """From paths as settings have them."""
        return cls(
            private=None if private is None else Path(private),
            public=None if public is None else Path(public),
        )


def sign(package: Package, private_key: Path, folder: Path) -> Path:
    """Sign a package with an elliptic key in PEM; the signature's file, in `folder`.

    Raises:
        UserError: the key cannot be read or used.
    """
    from model_signing import signing

    target = folder / SIGNATURE
    try:
        with _signed_files(package.folder) as signed:
            signing.Config().use_elliptic_key_signer(
                private_key=private_key, password=os.environ.get(PASSWORD)
            ).sign(signed, target)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"The adapter {package.digest[:12]} was to be signed with {private_key}.",
            f"That cannot be done: {_first(error)}",
            "Give `registry.private_key` a private elliptic key in PEM (openssl ecparam -name"
            f" prime256v1 -genkey -noout); its password, if any, in {PASSWORD}.",
        ) from None
    return target


def verify(package: Package, public_key: Path) -> None:
    """Check that the owner of a key made this package.

    Raises:
        UserError: it is not signed, or not by this key, or something else was signed.
    """
    from model_signing import verifying

    signature = package.folder / SIGNATURE
    who = f"The adapter {package.digest[:12]} ({package.card.method}) was to be loaded."
    todo = "Sign it (`registry.private_key`) and register it again, or ask whoever made it."
    if not signature.is_file():
        why = f"It has no {SIGNATURE}, and `registry.public_key` asks for one."
        raise UserError(who, why, todo)
    try:
        with _signed_files(package.folder) as signed:
            verifying.Config().use_elliptic_key_verifier(public_key=public_key).verify(
                signed, signature
            )
    except Exception as error:  # what a forged file makes its parser raise is not documented
        why = f"Its signature is not one of {public_key} for this package: {_first(error)}"
        raise UserError(who, why, todo) from None


@contextmanager
def _signed_files(folder: Path) -> Iterator[Path]:
    """A folder of the two files alone, so that the signature can neither miss nor gain one."""
    with tempfile.TemporaryDirectory() as temporary:
        for name in (CARD, WEIGHTS):
            try:
                os.link(folder / name, Path(temporary) / name)
            except OSError:  # no hard links to where temporary files lie
                shutil.copyfile(folder / name, Path(temporary) / name)
        yield Path(temporary)


def _first(error: Exception) -> str:
    text = (str(error).splitlines() or [repr(error)])[0]
    return text[:160]
