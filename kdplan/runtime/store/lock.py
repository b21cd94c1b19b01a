"""One process at a time works on a phase.

The lock is the operating system's: it ends with the process that holds it, whatever ends that. A side file names
its holder, for messages and for `kdplan status`: the process by number and start time, so that another process with a
recycled number is not taken for it.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kdplan.runtime.store.atomic import MODE, clear, make_folder
from kdplan.runtime.store.errors import StoreLocked, StoreUnwritable, writing
from kdplan.runtime.store.processes import start_token
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
        """Whether the process still runs. A process of another host counts as alive."""
        return self.host != socket.gethostname() or (self.token != "" and start_token(self.pid) == self.token)


def own_holder() -> Holder:
    """This process, as a holder from now on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Holder(os.getpid(), start_token(os.getpid()), socket.gethostname(), now)


FILES = frozenset({"lock", "holder.json"})
"""The files of a lock."""

PATIENCE = 5.0
"""Seconds to wait for a holder that has not said who it is: whoever clears up holds a lock for a moment."""
_PAUSE = 0.01


class Lock:
    """The lock of one folder: the files `lock` and `holder.json` in it.

    Raises
    ------
    StoreLocked
        From `acquire`, if someone holds it (KD0901, or `code`).
    """

    def __init__(self, folder: Path, what: str, code: str = "KD0901", needs_name: bool = True) -> None:
        self.folder = folder
        self.what = what
        self.code = code
        self.needs_name = needs_name
        """Whether it is not taken where there is no space to say who holds it."""
        # Not the soft lock, ever: a file that only exists is the stale lock that outlives a kill.
        self._lock = FileLock(folder / "lock", timeout=0, mode=MODE, thread_local=False, fallback_to_soft=False)
        self._named = False

    def acquire(self, wait: float = 0.0) -> None:
        """Takes the lock, or raises `StoreLocked` after `wait` seconds."""
        began = time.monotonic()
        with writing(self.folder / "lock"):
            while not self._taken():
                holder = read_holder(self.folder)
                named = holder is not None and holder.alive
                if time.monotonic() - began > (wait if named else max(wait, PATIENCE)):
                    raise self._locked()
                time.sleep(_PAUSE)
        try:
            write_sealed(self.folder / "holder.json", asdict(own_holder()))
            self._named = True
        except BaseException as problem:
            if isinstance(problem, StoreUnwritable) and not self.needs_name:
                return
            self._lock.release()
            raise

    def try_quietly(self) -> bool:
        """Takes the lock of a folder that is there, for a moment and without a name, if nobody holds it."""
        if not self.folder.is_dir():
            return False
        try:
            self._lock.acquire()
        except (Timeout, OSError):
            return False
        return True

    def _taken(self) -> bool:
        try:
            self._take()
        except Timeout:
            return False
        return True

    def _take(self) -> None:
        # The former holder may remove the folder between our making it and our opening the lock in it, and another
        # runner may make the file between two looks of the lock's own at it.
        for last in (*[False] * 9, True):
            make_folder(self.folder)
            try:
                self._lock.acquire()
                return
            except (FileNotFoundError, FileExistsError):
                if last:
                    raise

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._lock.is_locked:
            if self._named:
                clear(self.folder / "holder.json")
            self.abandon()

    def remove(self) -> None:
        """Removes the lock's files, and gives it back. Whoever waits for it then holds a file without a name, notices,
        and makes a new one."""
        clear(self.folder / "holder.json")
        clear(self.folder / "lock")
        self.abandon()

    def abandon(self) -> None:
        """Gives back the lock of a folder that has lost its name: files of that name are somebody else's by now."""
        self._named = False
        self._lock.release()

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._lock.is_locked

    def _locked(self) -> StoreLocked:
        holder = read_holder(self.folder)
        if holder is None:
            who = "a process that has just taken it"
        else:
            who = f"process {holder.pid} on {holder.host} since {holder.since}"
            if not holder.alive:
                who = f"a child of the ended {who}"
        return StoreLocked.of(self.code, what=self.what, who=who)


def read_holder(folder: Path) -> Holder | None:
    """The holder that the side file of `folder` names, or None where no such file can be read."""
    data = read_sealed(folder / "holder.json")
    try:
        return Holder(**data) if data else None
    except TypeError:
        return None  # of another version
