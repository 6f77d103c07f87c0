"""Processes side by side, each of which loads what it needs once and does one piece after another.

A piece that fails, or whose process dies, keeps no other from being done.
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from insitu.errors import UserError
from insitu.processes import PARENT, die_with_parent

DEVICES = "CUDA_VISIBLE_DEVICES"
Do = Callable[[str], None]
Start = Callable[[], Do]
"""What a process begins with, picklable: it loads, and gives what does a piece."""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def run(
    pieces: Sequence[str], start: Start, *, workers: int, threads: int, gpus: int = 0
) -> Iterator[tuple[str, UserError | None]]:
    """Each piece as it ends, with what it failed by.

    Args:
        workers: processes at most; each takes the next piece when it has done one.
        threads: of each, on the CPU.
        gpus: that there are; the n-th process sees the n-th alone, in turn. 0 = none.
    """
    context, waiting = multiprocessing.get_context("spawn"), list(reversed(pieces))
    at: dict[Connection, tuple[int, SpawnProcess, str]] = {}

    def begin(number: int) -> None:
        here, there = context.Pipe()
        gpu = visible(number, gpus) if gpus else None
        process = context.Process(target=_work, args=(there, start, threads, gpu), daemon=True)
        process.start()
        there.close()
        give(here, number, process)

    def give(here: Connection, number: int, process: SpawnProcess) -> None:
        piece = waiting.pop()
        at[here] = number, process, piece
        with contextlib.suppress(BrokenPipeError):  # it died since: its end is seen below
            here.send(piece)

    try:
        for number in range(min(workers, len(pieces))):
            begin(number)
        while at:
            for here in wait(list(at)):
                assert isinstance(here, Connection)
                number, process, piece = at.pop(here)
                try:
                    outcome, alive = here.recv(), True
                except (EOFError, ConnectionResetError):
                    process.join()
                    outcome, alive = _died(piece, process.exitcode or 0), False
                if alive and waiting:
                    give(here, number, process)
                elif alive:
                    here.close()
                    process.join()
                elif waiting:
                    begin(number)
                yield piece, outcome
    finally:
        for _, process, _ in at.values():
            process.terminate()
            process.join()


def _work(there: Connection, start: Start, threads: int, gpu: str | None) -> None:
    os.environ[PARENT] = str(os.getppid())
    die_with_parent()
    if gpu is not None:
        os.environ[DEVICES] = gpu  # before anything asks for a GPU
    import torch

    torch.set_num_threads(threads)
    try:
        do: Do | None = None
        while True:
            piece = there.recv()
            try:
                do = do or start()
                do(piece)
            except UserError as error:
                there.send(error)
            else:
                there.send(None)
    except (EOFError, KeyboardInterrupt):
        return  # nothing is left to do, or nobody waits for it
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def visible(number: int, gpus: int) -> str:
    """The GPU of a process, by the name that those of this process have."""
    own = os.environ.get(DEVICES)
    names = own.split(",") if own else [str(index) for index in range(gpus)]
    return names[number % len(names)]


def _died(piece: str, status: int) -> UserError:
    end = f"exit status {status}" if status >= 0 else signal.Signals(-status).name
    return UserError(
        f"{piece} was at work in a process of its own.",
        f"The process ended with {end}."
        + (" That often is the kernel's, for want of memory." if end == "SIGKILL" else ""),
        "Look at its last lines above; the same command continues from the last checkpoint. Have"
        " fewer workers if memory ran out.",
    )
