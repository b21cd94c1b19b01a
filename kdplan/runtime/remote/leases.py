"""Which machine trains a phase, agreed on by creating objects only.

leases/<key>/<n>    generation n of the phase's lease: who holds it, for how long it promises to renew, and the step

The highest generation counts. Whoever wants the lease, or renews it, creates the next one, which one of several can do;
older ones are removed. No two machines need to agree on what time it is: a lease ends when an observer has watched
the same generation for as long as its holder promised. A holder that was thought dead finds a higher generation, and
has lost the lease. It may go on all the same: the first artifact of a phase stays.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.store.errors import StoreError, StoreLocked
from kdplan.runtime.store.lock import Holder, own_holder
from kdplan.runtime.store.locks import lease_seconds
from kdplan.runtime.store.sealed import opened, seal

_RENEWALS = 3
"""So often a lease is renewed within its time."""
_LOOKS = 8
"""So often one who waits looks within that time."""
_PATIENCE = 10.0
"""Seconds for which the end of a lease waits for a renewal that is under way."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a lease, as its object says."""

    number: int
    holder: Holder
    seconds: float
    step: int | None = None

    @property
    def ended(self) -> bool:
        """Whether its holder was a process of this machine, and has ended."""
        here = own_holder()
        boot = here.token.rpartition("-")[0]
        return self.holder.host == here.host and boot == self.holder.token.rpartition("-")[0] and not self.holder.alive


@dataclass
class _Watched:
    """What an observer remembers of a phase that another machine trains."""

    generation: Generation
    since: float
    """When this process first saw that generation, by its monotonic timer."""
    looked: float = field(default=0.0)


class Leases:
    """The leases of one store.

    Examples
    --------
    >>> from kdplan.runtime.remote.address import Address
    >>> leases = Leases(Objects(Address("memory", "lab", "leases")))
    >>> lease = leases.take("k1", "phase k1")
    >>> Leases(leases.objects).take("k1", "phase k1")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdplan.runtime.store.errors.StoreLocked: KD0901: phase k1 is being run by process ...
    >>> lease.release()
    >>> Leases(leases.objects).take("k1", "phase k1").release()
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects
        self._watched: dict[str, _Watched] = {}

    def take(self, key: str, what: str, step: Callable[[], int | None] = lambda: None) -> Lease:
        """Takes the lease of phase `key`, which is then renewed until it is released.

        Parameters
        ----------
        what
            The phase's name in messages.
        step
            Gives the step that others are shown.

        Raises
        ------
        StoreLocked
            KD0901 if another process holds it, or has just taken it.
        """
        known = self._watched.get(key)
        if known is not None and time.monotonic() - known.looked < known.generation.seconds / _LOOKS:
            raise _locked(what, known.generation)
        numbers = generations(self.objects, key)
        number = numbers[-1] if numbers else 0
        current = self._current(key, number) if number else None
        if current is not None and not current.ended and not self._silent(key, current):
            raise _locked(what, current)
        lease = Lease(self.objects, key, number, step)
        if not lease.advance():
            self._watched.pop(key, None)
            raise _locked(what, None)
        self._watched.pop(key, None)
        lease.start()
        return lease

    def holder_of(self, key: str) -> Generation | None:
        """Who holds the lease of phase `key`, as was seen when it was last asked for."""
        known = self._watched.get(key)
        return known.generation if known is not None else None

    def look(self, key: str) -> Generation | None:
        """Who holds the lease of phase `key` now; None where nobody does."""
        numbers = generations(self.objects, key)
        current = self._current(key, numbers[-1]) if numbers else None
        return current if current is not None and not current.ended else None

    def _current(self, key: str, number: int) -> Generation | None:
        """A generation; None where it is gone, or cannot be read, so that nobody may rely on it."""
        known = self._watched.get(key)
        if known is not None and known.generation.number == number:
            return known.generation
        value = opened(self.objects.read(_name(key, number)) or b"")
        try:
            holder = Holder(**value["holder"])
            return Generation(number, holder, float(value["seconds"]), value["step"])
        except (KeyError, TypeError, ValueError):
            return None

    def _silent(self, key: str, current: Generation) -> bool:
        """Whether the holder has not renewed for as long as it promised to, as watched from here."""
        now = time.monotonic()
        known = self._watched.setdefault(key, _Watched(current, now))
        if known.generation.number != current.number:
            known.generation, known.since = current, now
        known.looked = now
        return now - known.since > current.seconds


class Lease:
    """The lease of one phase, held by this process."""

    def __init__(self, objects: Objects, key: str, number: int, step: Callable[[], int | None]) -> None:
        self.objects, self.key, self.number = objects, key, number
        self.seconds = lease_seconds()
        self.lost = False
        """Whether another machine has taken it, since this one was silent for too long."""
        self._step = step
        self._about = {"holder": asdict(own_holder()), "seconds": self.seconds, "lease": uuid.uuid4().hex}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease-{key[:12]}", daemon=True)

    def advance(self) -> bool:
        """Creates the next generation; False where another machine has done so, or a later one is there."""
        number = self.number + 1
        name = _name(self.key, number)
        try:
            self.objects.create(name, seal(self._about | {"step": self._step()}))
        except FileExistsError:
            # It may be of this lease: created, and then the service went away before all was done.
            if opened(self.objects.read(name) or b"").get("lease") != self._about["lease"]:
                return False
        # The generation before may be of long ago, and its successors removed since.
        numbers = generations(self.objects, self.key)
        if numbers and numbers[-1] > number:
            self.objects.delete([name])
            return False
        self.number = number
        self.objects.delete(_name(self.key, n) for n in numbers if n < number)
        return True

    def start(self) -> None:
        """Renews it from now on, in a thread."""
        self._thread.start()

    def _renew(self) -> None:
        while not self._ended.wait(self.seconds / _RENEWALS):
            # A service that does not answer for a while may answer in time.
            with suppress(StoreError):
                if not self.advance():
                    self.lost = True
                    return

    def release(self) -> None:
        """Gives it back; where the service cannot be reached, others wait for its end."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)
        if not self.lost:
            with suppress(StoreError):
                self.objects.delete([_name(self.key, self.number)])


def generations(objects: Objects, key: str) -> list[int]:
    """The numbers of a lease's generations, in order."""
    names = (name.rpartition("/")[2] for name in objects.listed(f"leases/{key}"))
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def _name(key: str, number: int) -> str:
    return f"leases/{key}/{number}"


def _locked(what: str, current: Generation | None) -> StoreLocked:
    if current is None:
        return StoreLocked.of("KD0901", what=what, who="a process that has just taken it")
    holder = current.holder
    who = f"process {holder.pid} on {holder.host} since {holder.since}"
    return StoreLocked.of("KD0901", what=what, who=who)
