"""One process at a time works on a phase.

The lock is the operating system's, which ends with the process that holds it, or a lease (`kdplan.runtime.store.locks`
says which). A side file names its holder, for messages and for `kdplan status`: the process by number and start time,
so that another process with a recycled number is not taken for it.

A process that was stopped for longer than its lease may have lost it to another one, and believe that it holds it.
`Lock.confirm` looks before each write. What a process in this state writes all the same is harmless: it writes in a
folder of its own (`kdplan.runtime.store.attempts`), and an artifact of the same key is the same.
"""

from __future__ import annotations

import math
import os
import socket
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, LeaseSettingsMismatch, SoftFileLease, Timeout

from kdplan.diagnostics.report import error
from kdplan.runtime.store.atomic import MODE, clear, flush_file, make_folder, remove
from kdplan.runtime.store.errors import StoreLocked, StoreLost, StoreUnwritable, writing
from kdplan.runtime.store.locks import FACT, Kind, Locks
from kdplan.runtime.store.processes import STALE, start_token, temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds, or held, a lock."""

    pid: int
    token: str
    """When that process started, in ticks since boot, with the boot's own name."""
    host: str
    since: str

    @property
    def alive(self) -> bool:
        """Whether the process still runs. A process of another host counts as alive; see `living`."""
        return self.host != socket.gethostname() or (self.token != "" and start_token(self.pid) == self.token)


def is_lock_file(name: str) -> bool:
    """Whether a file of this name belongs to a lock: those that filelock makes while a lease changes hands, too."""
    return name in ("lock", "lease", "holder.json") or name.startswith("lease.")


def own_holder() -> Holder:
    """This process, as a holder from now on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(os.getpid(), start_token(os.getpid()), socket.gethostname(), now)


PATIENCE = 5.0
"""Seconds to wait for a holder that has not said who it is: whoever clears up holds a lock for a moment."""
_PAUSES = {"flock": 0.01, "lease": 0.1}
"""Seconds between two looks at a lock that is held."""


class Lock:
    """The lock of one folder: the file `lock` or `lease`, and `holder.json` in it.

    Where a lease seems to be of a dead process, the same object must look at it for the length of a lease.

    Raises
    ------
    StoreLocked
        From `acquire`, if someone holds it (KD0901, or `code`).
    """

    def __init__(self, folder: Path, what: str, locks: Locks, code: str = "KD0901", needs_name: bool = True) -> None:
        self.folder = folder
        self.locks = locks
        self.what = what
        self.code = code
        self.needs_name = needs_name
        """Whether it is not taken where there is no space to say who holds it."""
        self._lock: FileLock | SoftFileLease | None = None
        self._named = False
        self._empty: tuple[object, float] | None = None

    def acquire(self, wait: float = 0.0) -> None:
        """Takes the lock, or raises `StoreLocked` after `wait` seconds."""
        began, kind = time.monotonic(), self._settle()
        with writing(self.folder / kind.name):
            while not self._taken(kind):
                holder = read_holder(self.folder)
                # An ended process may still have its lease: that is known after the length of one, here or later.
                named = holder is not None and (kind.name == "lease" or holder.alive)
                if time.monotonic() - began > (wait if named else max(wait, PATIENCE)):
                    raise self._locked()
                time.sleep(_PAUSES[kind.name])
        try:
            write_sealed(self.folder / "holder.json", asdict(own_holder()))
            self._named = True
        except BaseException as problem:
            if isinstance(problem, StoreUnwritable) and not self.needs_name:
                return
            self.abandon()
            raise

    def try_quietly(self) -> bool:
        """Takes the lock of a folder that is there, for a moment and without a name, if nobody holds it.

        Of a process on another host it is not known whether it has ended: its lease counts for a day.
        """
        if not self.folder.is_dir():
            return False
        try:
            kind = self._settle()
            if kind.name == "lease" and STALE < self.locks.age(self.folder / kind.name) < math.inf:
                clear(self.folder / kind.name)
            self._of(kind).acquire()
        except (Timeout, LeaseSettingsMismatch, OSError, StoreUnwritable):
            return False
        return True

    def _settle(self) -> Kind:
        try:
            return self.locks.settled()
        except StoreUnwritable:
            if self.needs_name:
                raise
            return self.locks.known()

    def _of(self, kind: Kind) -> FileLock | SoftFileLease:
        if self._lock is None and kind.name == "lease":
            path, seconds = self.folder / "lease", kind.seconds
            self._lock = SoftFileLease(path, lease_duration=seconds, timeout=0, mode=MODE, thread_local=False)
        elif self._lock is None:
            # Not the soft lock, ever: a file that only exists is the stale lock that outlives a kill.
            path = self.folder / "lock"
            self._lock = FileLock(path, timeout=0, mode=MODE, thread_local=False, fallback_to_soft=False)
        return self._lock

    def _taken(self, kind: Kind) -> bool:
        try:
            self._take(kind)
        except Timeout:
            if kind.name == "lease":
                self._remove_empty(kind)
            return False
        except LeaseSettingsMismatch:
            root, reason = self.locks.root, f"a lease of another length is in {self.folder}"
            raise error("KD0930", None, root=root, known=kind, reason=reason, file=root / FACT) from None
        return True

    def _take(self, kind: Kind) -> None:
        # The former holder may remove the folder between our making it and our opening the lock in it, and another
        # runner may make the file between two looks of the lock's own at it.
        for last in (*[False] * 9, True):
            make_folder(self.folder)
            try:
                self._of(kind).acquire()
                if kind.name == "lease":
                    self._flush(kind)
                return
            except (FileNotFoundError, FileExistsError):
                if last:
                    raise

    def _flush(self, kind: Kind) -> None:
        """Writes a lease's file to the disk: other machines may see an empty one until then."""
        try:
            flush_file(self.folder / kind.name)
        except BaseException:
            self.abandon()
            raise

    def _remove_empty(self, kind: Kind) -> None:
        """Removes the file of a lease that stays empty: its process ended between making it and writing its name there.

        filelock takes such a file for a lock of its first versions, and leaves it for ever.
        """
        try:
            handle = os.open(self.folder / kind.name, os.O_RDONLY)
        except OSError:
            return
        try:
            seen = os.fstat(handle)
        finally:
            os.close(handle)
        state, now = (seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns), time.monotonic()
        if seen.st_size:
            self._empty = None
        elif self._empty is None or self._empty[0] != state:
            self._empty = (state, now)
        elif now - self._empty[1] >= kind.seconds:
            clear(self.folder / kind.name)

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self.held:
            if self._named and not self._is_lost():
                clear(self.folder / "holder.json")
            self.abandon()

    def remove(self) -> None:
        """Removes the lock's files, and gives it back. Whoever waits for it then holds a file without a name, notices,
        and makes a new one."""
        if not self._is_lost():
            clear(self.folder / "holder.json")
            if not isinstance(self._lock, SoftFileLease):  # which removes its own file, and no other
                clear(self.folder / "lock")
        self.abandon()

    def remove_folder(self) -> None:
        """Removes the folder with all that is in it, and gives the lock back; what cannot be removed stays.

        Its name goes while the lock is held, so that nobody takes what is left of it for a killed process's.
        """
        gone = temporary(self.folder, "old")
        with suppress(OSError):  # without its lock it is nobody's, and goes with the next command
            os.rename(self.folder, gone)
            remove(gone)
        self.abandon()

    def abandon(self) -> None:
        """Gives back the lock of a folder that has lost its name: files of that name are somebody else's by now."""
        self._named = False
        if self._lock is not None:
            # A lease that the system does not let us give back ends by itself.
            with suppress(*([OSError] if isinstance(self._lock, SoftFileLease) else [])):
                self._lock.release()

    @property
    def held(self) -> bool:
        """Whether this object took the lock and did not give it back. A lease may be lost meanwhile: see `confirm`."""
        return self._lock is not None and self._lock.is_locked

    @property
    def claim(self) -> str:
        """A name that no other holder of this lease ever has; "" where the lock is the operating system's."""
        return (self._lock.token or "") if isinstance(self._lock, SoftFileLease) else ""

    def confirm(self) -> None:
        """Does nothing where this process still holds the lock.

        Raises
        ------
        StoreLost
            KD0931 if the lease was not renewed in time, and may be another process's by now.
        """
        assert self.held, f"the lock of {self.what} is not held"
        with writing(self.folder / "lease"):
            lost = self._is_lost()
        if lost:
            seconds = f"{self.locks.known().seconds:g}"
            raise StoreLost.of("KD0931", what=self.what, seconds=seconds)

    def _is_lost(self) -> bool:
        lease = self._lock
        if not isinstance(lease, SoftFileLease):
            return False
        if lease.token is None or lease.compromise is not None:
            return True
        try:
            # The file names its holder. filelock itself would notice at its second renewal only.
            return lease.token not in (self.folder / "lease").read_text("utf-8", "replace")
        except FileNotFoundError:
            return True

    def _locked(self) -> StoreLocked:
        holder = read_holder(self.folder)
        if holder is None:
            who = "a process that has just taken it"
        else:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
            if not holder.alive and self.locks.known().name == "flock":
                who = f"a child of the ended {who}"
        return StoreLocked.of(self.code, what=self.what, who=who)


def living(folder: Path, locks: Locks) -> Holder | None:
    """The holder of a folder's lock, if it runs; of one on another host, if it renews its lease.

    For what is shown. Whoever wants the lock finds out by watching the lease.
    """
    holder = read_holder(folder)
    if holder is None or not holder.alive:
        return None
    kind = locks.known()
    return holder if kind.name == "flock" or locks.age(folder / "lease") <= kind.seconds else None


def read_holder(folder: Path) -> Holder | None:
    """The holder that the side file of `folder` names, or None where no such file can be read."""
    data = read_sealed(folder / "holder.json")
    try:
        return Holder(**data) if data else None
    except TypeError:
        return None  # of another version
