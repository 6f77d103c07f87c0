"""Stage `gallery`: what the checkpoints paint, find and recognize, on one page.

Run from the repository's root: `python -m pipelines.gallery`.
"""

import sys
from pathlib import Path

import diffusers
import transformers

from insitu.errors import UserError
from insitu.params import load

PAGE = Path("reports/nano")
REFUSED = 2


def main() -> int:
    """Build the page from params.yaml; 2 if the settings or checkpoints do not allow it."""
    for library in (diffusers, transformers):
        # Their bars and notes would bury the stage's own progress.
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    # Imported here, since loading the pipelines' modules is what they first remark on.
    from insitu.evaluation.gallery import build

    try:
        build(load(), PAGE, lambda line: print(line, flush=True))
    except UserError as error:
        for name, part in (("given", error.given), ("why", error.why), ("to do", error.todo)):
            print(f"{name}: {part}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
