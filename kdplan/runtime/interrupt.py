"""Ctrl-C and SIGTERM: the first one asks the running phase to stop after its step, the second one ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

INTERRUPTED = 75
"""The exit code of a run that was stopped and can be resumed."""


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

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            os._exit(INTERRUPTED)  # the last checkpoint stands; nothing here is worth waiting for
        self.request(signal.Signals(number).name)
