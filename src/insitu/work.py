"""Work folders: where unfinished work lives, outside of what DVC tracks.

`dvc repro` deletes a stage's outputs before it runs, and writing into them in place would corrupt
linked caches. So a step works in `.insitu/work/<stage>/<input digest>` and publishes by rename. A
lease keeps a second run out of the folder; the kernel takes it back when its holder dies.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from insitu.errors import UserError

ROOT = Path(".insitu") / "work"


@contextmanager
def work_folder(stage: str, input_digest: str, *, root: Path = ROOT) -> Iterator[Path]:
    """The folder of one piece of work, held by this process alone.

    Raises:
        UserError: another process holds it.
    """
    folder = root / stage / input_digest[:32]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lease").open("a") as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"The work in {folder} was to be continued.",
                "Another process is at it, and two would overwrite each other's checkpoints.",
                "Wait until it is done, or end it.",
            ) from None
        yield folder
