"""What every step does the same: settings, quiet libraries, refusals in three parts, a report."""

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from insitu.errors import UserError
from insitu.params import Params, load

REFUSED = 2
PARENT = "INSITU_PARENT"
"""Set by what launches a step: the process that it must not outlive."""

Report = Callable[[dict[str, Any]], None]


def run(step: Callable[[Params, Report], None]) -> int:
    """Run a step with the settings of params.yaml; its exit status.

    The step gets a function that tells what is worth seeing about its result; it goes to whoever
    launched it, if anyone listens.
    """
    _die_with_parent()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with _reporting() as report:
            step(load(), report)
    except UserError as error:
        for name, part in (("given", error.given), ("why", error.why), ("to do", error.todo)):
            print(f"{name}: {part}", file=sys.stderr)
        return REFUSED
    return 0


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


def _die_with_parent() -> None:
    """Where the kernel can (Linux), end when the launching process ends, however it does."""
    parent = os.environ.get(PARENT)
    if parent is None or not sys.platform.startswith("linux"):
        return
    # Ignored signals are inherited; whoever launched this may ignore this one.
    if signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGTERM)
    if os.getppid() != int(parent):  # it ended before the signal was asked for
        sys.exit(f"the launching process {parent} is gone")
