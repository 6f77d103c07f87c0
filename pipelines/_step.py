"""What every step does the same: settings, quiet libraries, refusals in three parts, a report."""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from insitu.errors import UserError
from insitu.params import Params, load
from insitu.processes import die_with_parent

REFUSED = 2
Report = Callable[[dict[str, Any]], None]


def run(step: Callable[[Params, Report], None]) -> int:
    """Run a step with the settings of params.yaml; its exit status.

    The step gets a function that tells what is worth seeing about its result; it goes to whoever
    launched it, if anyone listens.
    """
    die_with_parent()
    calm()
    try:
        with _reporting() as report:
            step(load(), report)
    except UserError as error:
        for name, part in (("given", error.given), ("why", error.why), ("to do", error.todo)):
            print(f"{name}: {part}", file=sys.stderr)
        return REFUSED
    return 0


def calm() -> None:
    """Without libraries' notes of what they load and of what will change, in this process."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    for library in ("DIFFUSERS", "TRANSFORMERS"):
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    logging.getLogger("torchao").setLevel(logging.ERROR)  # of kernels for other GPUs


def quiet() -> None:
    """Silence the model libraries: their bars and notes would bury the step's own progress."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


@contextmanager
def _reporting() -> Iterator[Report]:
    if "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield lambda facts: None
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as pipes:
        yield pipes.report_custom_message
