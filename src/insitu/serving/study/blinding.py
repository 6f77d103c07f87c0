"""What keeps voters blind: addresses and orders that only the holder of a key can work out."""

import base64
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from insitu.errors import UserError

KEY_BYTES = 32


class Blinding:
    """Tokens and orders by HMAC-SHA256, so that one tells nothing of any other.

    Both are the same for the same key: a page that is loaded again, and a server that is started
    again, show the same.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key

    def token(self, *parts: str) -> str:
        """24 characters for an address; 144 bits of the digest."""
        return base64.urlsafe_b64encode(self._digest(*parts)[:18]).decode()

    def order(self, names: Sequence[str], *parts: str) -> tuple[str, ...]:
        """The names in an order that depends on the parts; all orders are equally likely."""
        return tuple(sorted(names, key=lambda name: self._digest("order", *parts, name)))

    def _digest(self, *parts: str) -> bytes:
        # JSON, so that ("ab", "c") and ("a", "bc") are different.
        return hmac.digest(self.key, json.dumps(parts).encode(), "sha256")


def key_beside(votes: Path) -> bytes:
    """The key of a votes file, in `<votes>.key`, made the first time.

    Raises:
        UserError: the file cannot be read or written, or holds no key.
    """
    path = votes.with_name(f"{votes.name}.key")
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_once(path, secrets.token_hex(KEY_BYTES))
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except OSError as error:
        raise UserError(
            f"The votes file {votes} was given.",
            f"The key beside it, {path.name}, cannot be read or written: {error.strerror}.",
            "Give a votes file in a folder that can be written to.",
        ) from None
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise UserError(
            f"The votes file {votes} was given.",
            f"{path.name} beside it holds no key of {KEY_BYTES} bytes in hexadecimal.",
            "Restore it, or remove it: then pictures are shuffled anew, and votes stay valid.",
        )
    return key


def _write_once(path: Path, text: str) -> None:
    """Write a whole file for its owner's eyes; one that somebody else wrote meanwhile stays."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)
