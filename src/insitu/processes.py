"""Processes that do not outlive those that started them."""

import ctypes
import os
import signal
import sys

PARENT = "INSITU_PARENT"
"""Set by what launches a process: the one that it must not outlive."""


def die_with_parent() -> None:
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
