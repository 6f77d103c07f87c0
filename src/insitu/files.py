"""Writing so that a reader sees the old or the new, never half of it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `target` when the block ends without an error.

    What was at `target` stays until then, and for good if anything fails.
    """
    with _beside(target) as temporary:
        fresh = temporary / "fresh"
        fresh.mkdir()
        yield fresh
        _swap(fresh, target, temporary / "old")


def adopt(folder: Path, target: Path) -> None:
    """Move a finished folder to `target`, in the place of what was there, by rename.

    From another file system it is copied first; the original stays until its copy is in place.
    """
    with _beside(target) as temporary:
        try:
            _swap(folder, target, temporary / "old")
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            fresh = Path(shutil.copytree(folder, temporary / "fresh"))
            _swap(fresh, target, temporary / "old")
            shutil.rmtree(folder)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """A passing folder beside the target, since a rename does not cross file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(fresh: Path, target: Path, old: Path) -> None:
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(fresh, target)
    except BaseException:
        if old.exists():
            os.replace(old, target)
        raise
