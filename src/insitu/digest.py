"""SHA-256 digests of files and of a checkpoint's weights."""

import hashlib
from pathlib import Path

from insitu.errors import UserError


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content as 64 hex digits, read in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files at any depth of `folder`, sorted by relative path."""
    return sorted(folder.rglob("*.safetensors"), key=lambda path: _relative(path, folder))


def weights_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a checkpoint's weight files, as 64 hex digits.

    Names are relative and use `/`, so that a copy elsewhere has the same digest; configuration,
    card and pictures do not enter it.

    Raises:
        UserError: the folder is missing or holds no safetensors file.
    """
    if not folder.is_dir():
        raise UserError(
            f"The checkpoint folder {folder} was given.",
            "There is no such folder.",
            "Check the path, or build the checkpoint first.",
        )
    files = weight_files(folder)
    if not files:
        raise UserError(
            f"The checkpoint folder {folder} was given.",
            "It holds no .safetensors file, and no other weight format is ever loaded.",
            "Save the weights as safetensors, or build the checkpoint again.",
        )
    total = hashlib.sha256()
    for path in files:
        total.update(f"{_relative(path, folder)}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def code_digest(*packages: str) -> str:
    """SHA-256 over the sources of subpackages or modules of insitu, as 64 hex digits.

    What other code began is not continued, and what it made is made again.
    """
    root = Path(__file__).resolve().parent
    total = hashlib.sha256()
    for name in packages:
        place = root / name
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        for path in files:
            total.update(f"{_relative(path, root)}\0{file_digest(path)}\n".encode())
    return total.hexdigest()


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
