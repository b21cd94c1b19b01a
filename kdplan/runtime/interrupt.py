"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR2: the first one asks the running phase to stop after its step.

A second Ctrl-C or SIGTERM ends the process at once. A second SIGHUP does not: a terminal that closes sends several.
Nor does SIGUSR2, by which clusters announce that a job must end: its processes hear it from several sides.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

INTERRUPTED = 75
"""The exit code of a run that was stopped and can be resumed."""

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2") if hasattr(signal, name))
"""The signals that stop a run so that it can be resumed."""


class Interrupted(Exception):
    """A run was stopped on request; a checkpoint was written."""


class Interrupt:
    """Whether a run shall stop; a context manager that listens for signals meanwhile.

    Outside the main thread, where Python delivers no signals, only `request` sets it.

    Examples
    --------
    >>> with Interrupt() as interrupt:
    ...     interrupt.requested
    False
    """

    def __init__(self) -> None:
        self.requested = False
        self.by = ""
        self._before: dict[int, Any] = {}

    def request(self, by: str = "request") -> None:
        """Asks the running phase to stop after its step."""
        self.requested, self.by = True, by

    def join(self, others: bool) -> None:
        """Asks as well where other processes of the run were asked."""
        if others and not self.requested:
            self.request("a signal to another process")

    def sleep(self, seconds: float) -> None:
        """Waits so long, or until the run shall stop."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(0.2, left))

    def __enter__(self) -> Interrupt:
        self._before = _listen(STOPS, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        _restore(self._before)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.requested and name in ("SIGINT", "SIGTERM"):
            os._exit(INTERRUPTED)  # the last checkpoint stands; nothing here is worth waiting for
        self.request(name)


@contextmanager
def stopped_by_keyboard_interrupt(signals: Sequence[int]) -> Iterator[None]:
    """Inside, each of these signals raises `KeyboardInterrupt` with its name, as Ctrl-C does.

    Examples
    --------
    >>> try:
    ...     with stopped_by_keyboard_interrupt([signal.SIGTERM]):
    ...         signal.raise_signal(signal.SIGTERM)
    ... except KeyboardInterrupt as stop:
    ...     print(stop)
    SIGTERM
    """

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = _listen(signals, stop)
    try:
        yield
    finally:
        _restore(before)


def _listen(signals: Sequence[int], act: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Handles signals, except those that the process ignores from its start, as under `nohup`; the former handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = [n for n in signals if signal.getsignal(n) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, act) for number in heard}


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
