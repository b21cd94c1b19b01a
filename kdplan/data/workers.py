"""How a loader's worker process begins: so that it ends with the run that it works for, and not before."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
CONTEXT = "fork" if sys.platform == "linux" else "spawn"
"""How workers are started: both ways make them children of the process that calls."""


def begin(parent: int, worker: int) -> None:
    """What a worker does first; `parent` is the run's process id.

    Ctrl-C and schedulers signal the whole group; workers leave it to the run, which needs them to end its step. A run
    that is killed cannot end them: the kernel does so where it can be asked to, and the loader's own look at its parent
    elsewhere. That look misses a parent that died before the first one, so here is one more.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
