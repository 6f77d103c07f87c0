"""Stage `gallery`: what the checkpoints paint, find and recognize, on one page.

Run from the repository's root: `python -m pipelines.gallery`.
"""

import sys
from pathlib import Path

from insitu.params import Params
from pipelines import _step

PAGE = Path("reports/nano")


def main(params: Params, report: _step.Report) -> None:
    """Build the page from params.yaml."""
    _step.quiet()
    # Imported here, since loading the pipelines' modules is what they first remark on.
    from insitu.evaluation.gallery import build

    build(params, PAGE, lambda line: print(line, flush=True))
    report({"page": str(PAGE / "index.html")})


if __name__ == "__main__":
    sys.exit(_step.run(main))
