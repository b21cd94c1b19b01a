"""Writing to a disk that is full: an error, or patience until there is space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.store.errors import StoreUnwritable

T = TypeVar("T")

FULL = "KD0905"


@dataclass
class Patience:
    """What is done when the disk is full.

    Attributes
    ----------
    wait
        Whether to try again until there is space; without it the error stands.
    pause
        Seconds between two attempts.

    Examples
    --------
    >>> Patience().write(lambda: 3)
    3
    """

    wait: bool = False
    events: Events = field(default_factory=NoEvents)
    interrupt: Interrupt = field(default_factory=Interrupt)
    pause: float = 10.0

    def write(self, act: Callable[[], T]) -> T:
        """Do what writes to the store, again and again if need be; `act` leaves nothing behind where it fails.

        Raises
        ------
        StoreUnwritable
            KD0905 without `wait`; other refusals of the system in any case.
        Interrupted
            If the run is asked to stop meanwhile. What was to be written is lost; what was written before stays.
        """
        noted = False
        while True:
            try:
                return act()
            except StoreUnwritable as problem:
                if not self.wait or problem.diagnostics[0].code != FULL:
                    raise
                if not noted:
                    self.events.note(f"{FULL}: {problem.diagnostics[0].message} The run waits until there is space.")
                    noted = True
            self.interrupt.sleep(self.pause)
            if self.interrupt.requested:
                raise Interrupted
