"""What running processes read: nobody removes it under them.

leases/lock       held for a moment by whoever registers what it reads, or removes what nobody reads
leases/<name>/    one run: its lock and holder.json while it goes on, keys.json
"""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdplan.runtime.store.atomic import names_in
from kdplan.runtime.store.lock import Holder, Lock, read_holder
from kdplan.runtime.store.locks import Locks
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed

WAIT = 60.0
"""Seconds to wait for others to register or to remove."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a running process reads."""

    holder: Holder | None
    keys: frozenset[str] | None
    """Keys of phases; None where that cannot be read, so that it may be anything."""

    @property
    def who(self) -> str:
        """The process, for messages."""
        return f"process {self.holder.pid} on {self.holder.host}" if self.holder is not None else "a running process"


class Leases:
    """The folder `leases/` of a store."""

    def __init__(self, folder: Path, locks: Locks | None = None) -> None:
        self.folder = folder
        self.locks = locks or Locks(folder.parent)

    @contextmanager
    def exclusive(self, wait: float = WAIT) -> Iterator[None]:
        """Inside, nobody else registers or removes.

        Raises
        ------
        StoreLocked
            KD0917 if another process does so for `wait` seconds.
        StoreUnwritable
        """
        # A full disk must not prevent removing.
        lock = Lock(self.folder, "The list of what running processes read", self.locks, "KD0917", needs_name=False)
        kind = self.locks.known()
        lock.acquire(max(wait, 1.5 * kind.seconds) if wait and kind.name == "lease" else wait)
        try:
            yield
        finally:
            lock.release()

    def begin(self, keys: Collection[str]) -> Lock:
        """Registers that this process reads the phases with these keys, until `end`. Call it inside of `exclusive`."""
        folder = self.folder / uuid.uuid4().hex[:16]
        lock = Lock(folder, "a run", self.locks)
        lock.acquire()
        try:
            write_sealed(folder / "keys.json", {"keys": sorted(set(keys))})
        except BaseException:
            self.end(lock)
            raise
        return lock

    def end(self, lock: Lock) -> None:
        """The inverse of `begin`."""
        lock.remove_folder()

    def current(self) -> list[Lease]:
        """The leases of processes that run."""
        leases = []
        for folder in self._folders():
            lock = Lock(folder, "a run", self.locks)
            if lock.try_quietly():
                lock.release()
                continue
            holder = read_holder(folder)
            keys = read_sealed(folder / "keys.json").get("keys")
            leases.append(Lease(holder, frozenset(keys) if isinstance(keys, list) else None))
        return leases

    def sweep(self) -> list[Path]:
        """Removes the leases of processes that have ended. Call it inside of `exclusive`."""
        swept = []
        for folder in self._folders():
            lock = Lock(folder, "a run", self.locks)
            if lock.try_quietly():
                self.end(lock)
                swept.append(folder)
        return swept

    def _folders(self) -> list[Path]:
        there = [self.folder / name for name in names_in(self.folder) if not is_temporary(name)]
        return [p for p in there if p.is_dir()]
