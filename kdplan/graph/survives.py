"""Whether some work ends the process that does it, tried in a forked child first.

Compiled code that is handed a traced value reads memory that is not there. `callers.py` recognises such calls; a child
is for those that it does not know.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable

import torch

from kdplan.diagnostics.boundary import is_foreign

SECONDS = 120.0
"""After so long a child is ended: what it does may hang in a fork, and not in this process."""


def survives(work: Callable[[], object]) -> bool:
    """Whether a child of this process lives on after `work`, also if that raises; True where there can be no child.

    >>> survives(lambda: 1 / 0), survives(lambda: os.kill(os.getpid(), 11))
    (True, False)
    """
    if not hasattr(os, "fork") or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(1, 2)
            # The other threads of this process are not in the child, which would wait for them.
            torch.set_num_threads(1)
            work()
        except BaseException as problem:
            os._exit(0 if is_foreign(problem) else 1)
        os._exit(0)
    os.close(writing)  # the child holds the other end as long as it lives
    ended = bool(select.select([reading], [], [], SECONDS)[0])
    os.close(reading)
    if not ended:
        os.kill(child, 9)
    status = os.waitpid(child, 0)[1]
    return not ended or not os.WIFSIGNALED(status)
