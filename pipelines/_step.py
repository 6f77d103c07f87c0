"""What every step does the same: settings, quiet libraries, refusals in three parts."""

import sys
import warnings
from collections.abc import Callable

import torch

from insitu.errors import UserError
from insitu.params import Params, load

REFUSED = 2


def run(step: Callable[[Params], None]) -> int:
    """Run a step with the settings of params.yaml; its exit status."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        step(load())
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


def device(params: Params) -> torch.device:
    """The device that the settings come to on this machine.

    Raises:
        UserError: cuda is asked for and not to be had.
    """
    cuda = torch.cuda.is_available()
    if params.device == "cuda" and not cuda:
        raise UserError(
            "`device` is cuda.",
            "torch finds no CUDA device here.",
            "Set `device` to auto or cpu, or install a CUDA build of torch and its driver.",
        )
    return torch.device("cuda" if cuda and params.device != "cpu" else "cpu")
