"""API keys: who may ask for what. Only their digests are kept."""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from insitu.errors import UserError
from insitu.files import replace_text
from insitu.serving.refusals import Denied, Forbidden

Scope = Literal["read", "place", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
OPEN = frozenset({"/", "/healthz", "/readyz", "/openapi.json"})
PAGE = "/studio/"
"""Paths that tell nothing of adapters, and what lies under the page's own."""


class Key(BaseModel):
    """A key as it is kept: its owner's name, its SHA-256, and what it is for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: frozenset[Scope]


class File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: list[Key]


class Keys:
    """A file of keys, read again when it changes: a key that is taken out is refused at once."""

    def __init__(self, file: Path) -> None:
        """Raises UserError if it cannot be read."""
        self._file, self._seen = file, 0
        self._keys: list[Key] = []
        self._refresh()

    def owner(self, key: str | None, scope: Scope) -> str:
        """Whose key it is.

        Raises:
            Denied, Forbidden: no key, an unknown one, or one that is for something else.
        """
        self._refresh()
        if not key:
            raise Denied(
                "A request was sent without a key.",
                "This server asks for one.",
                "Send it as `Authorization: Bearer KEY`.",
                {"WWW-Authenticate": "Bearer"},
            )
        digest = _digest(key)
        known = [one for one in self._keys if hmac.compare_digest(one.sha256, digest)]
        if not known:
            raise Denied(
                "A request was sent with a key.",
                "It is none that this server knows.",
                "Ask whoever runs the server for one (insitu serve-key).",
                {"WWW-Authenticate": "Bearer"},
            )
        if scope not in known[0].scopes:
            raise Forbidden(
                f"{known[0].name} asked for what needs the scope {scope}.",
                f"Its key is for {', '.join(sorted(known[0].scopes)) or 'nothing'}.",
                "Ask whoever runs the server for a key with that scope.",
            )
        return known[0].name

    def _refresh(self) -> None:
        try:
            changed = os.stat(self._file).st_mtime_ns
            if changed != self._seen:
                self._keys, self._seen = read(self._file), changed
        except OSError as error:
            if not self._seen:
                raise _unreadable(self._file, str(error.strerror)) from None
            # Being replaced, or gone: those that were known stay known until there are others.


def add(file: Path, name: str, scopes: Iterable[Scope]) -> str:
    """Make a key, and keep its digest; the key, which is shown once.

    Raises:
        UserError: the name is no word or is taken, or the file cannot be read.
    """
    known = read(file) if file.exists() else []
    if name in [key.name for key in known]:
        raise UserError(
            f"A key for {name} was to be made.",
            f"There is one already in {file}.",
            "Take it out there first, or choose another name.",
        )
    key = secrets.token_urlsafe(32)
    try:
        made = Key(name=name, sha256=_digest(key), scopes=frozenset(scopes))
    except ValidationError:
        raise UserError(
            f"A key for {name!r} was to be made.",
            "A name is letters, digits, points, hyphens and underscores.",
            "Choose another.",
        ) from None
    content = [json.loads(one.model_dump_json()) for one in [*known, made]]
    for one in content:
        one["scopes"] = sorted(one["scopes"])
    replace_text(file, json.dumps({"keys": content}, indent=2) + "\n")
    file.chmod(0o600)
    return key


def read(file: Path) -> list[Key]:
    """The keys in a file. Raises UserError."""
    try:
        return File.model_validate_json(file.read_text(encoding="utf-8")).keys
    except ValidationError as error:
        why = str(error.errors(include_url=False)[0]["msg"])
    except (OSError, UnicodeDecodeError) as error:
        why = str(getattr(error, "strerror", None) or error)
    raise _unreadable(file, why)


def scope_of(method: str, path: str) -> Scope | None:
    """What a request needs; None = nothing."""
    if path in OPEN or path.startswith(PAGE):
        return None
    if path == "/metrics":
        return "metrics"
    return "read" if method in ("GET", "HEAD", "OPTIONS") else "place"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(
        f"The file of keys {file} was given.",
        f"It cannot be read: {why}.",
        "Make it: insitu serve-key NAME; or set serving.keys to null, on this machine alone.",
    )
