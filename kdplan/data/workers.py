"""How a loader's worker processes begin and end: with the run that they work for, and never silently."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Generic, Protocol, TypeVar

from kdplan.diagnostics.report import error

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
CONTEXT = "fork" if sys.platform == "linux" else "spawn"
"""How workers are started: both ways make them children of the process that calls."""

PATIENCE = "KDPLAN_WORKER_TIMEOUT"
"""The variable that says how many seconds a run waits for a batch."""

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Source(Protocol[T_co]):
    """What starts its processes when it is gone through for the first time, and ends them when it is forgotten."""

    def __iter__(self) -> Iterator[T_co]: ...


@dataclass
class _Watched:
    """Processes, and since when someone waits for them; no reference to whom they work for."""

    source: list[object]
    processes: list[BaseProcess] = field(default_factory=list)
    since: float | None = None
    late: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def watch(self, seconds: float) -> None:
        """Kill processes that let someone wait too long. One that is stopped may hold the reader of a batch as well."""
        while not self.over.wait(min(1.0, seconds / 4)):
            since = self.since
            if since is not None and time.monotonic() - since > seconds:
                self.late = True
                self.kill()

    def kill(self) -> None:
        """End what still runs, whether it listens or not."""
        for process in self.processes:
            if process.is_alive():
                process.kill()

    def end(self) -> None:
        """Ask the processes to end, then make them."""
        self.over.set()
        self.source.clear()
        self.kill()
        for process in self.processes:
            process.join()


class Crew(Generic[T]):
    """The processes of one loader.

    Parameters
    ----------
    source
        A `DataLoader` with persistent workers.
    name
        The data set, for messages.
    """

    def __init__(self, source: Source[T], name: str) -> None:
        self._source: list[Source[T]] = [source]
        self._name = name
        self._watched = _Watched(self._source)  # type: ignore[arg-type]
        # A process that is stopped (SIGSTOP) ignores every request to end, and Python would wait for it at its own end.
        self.end = weakref.finalize(self, self._watched.end)

    @property
    def ended(self) -> bool:
        """Whether `end` was called, or the processes failed."""
        return not self._source

    def batches(self) -> Iterator[T]:
        """One pass.

        Raises
        ------
        PlanError
            KD0737 if a process has ended, or gave nothing for as long as `patience`.
        """
        watched, known = self._watched, multiprocessing.active_children()
        with _no_signals_of_children():
            batches = iter(self._source[0])
        new = [p for p in multiprocessing.active_children() if p not in known]
        if new and (seconds := patience()):
            threading.Thread(target=watched.watch, args=[seconds], daemon=True).start()
        watched.processes += new
        while True:
            watched.since = time.monotonic()
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as problem:
                reason = self._reason(problem)
                if reason is None:
                    raise
                # What the exception holds would keep the processes from being forgotten.
                traceback.clear_frames(problem.__traceback__)
                del batches
                self.end()
                raise error("KD0737", None, name=self._name, reason=reason) from None
            finally:
                watched.since = None
            yield batch

    def _reason(self, problem: BaseException) -> str | None:
        """Why no batch comes; None if the code that loads raised the error itself."""
        if isinstance(problem, OSError | EOFError):  # of the pipe to a process that is about to be gone
            gone = wait([p.sentinel for p in self._watched.processes], timeout=5)
            for process in self._watched.processes:
                if process.sentinel in gone:
                    process.join(5)
        if self._watched.late:
            return f"gave nothing for {patience():g} s"
        for process in self._watched.processes:
            code = process.exitcode
            if code is not None:
                return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended itself with code {code}"
        return None


@contextmanager
def _no_signals_of_children() -> Iterator[None]:
    """Leave SIGCHLD as it was: torch's own handler raises wherever the run is, be it within a write to the store.

    A process that has ended is noticed all the same, at the latest after five seconds without a batch.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def patience() -> float:
    """Seconds that a run waits for a batch: `KDPLAN_WORKER_TIMEOUT`, 300 without it; 0 waits for ever."""
    try:
        return max(0.0, float(os.environ.get(PATIENCE, "300")))
    except ValueError:
        raise error("KD0738", None, name=PATIENCE, value=os.environ[PATIENCE]) from None


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
