"""One process at a time works on a phase.

The lock is the operating system's: it ends with the process that holds it, whatever ends that. A side file names
its holder, for messages and for `kdplan status`: the process by number and start time, so that another process with a
recycled number is not taken for it.
"""

from __future__ import annotations

import os
import socket
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kdplan.runtime.store.atomic import MODE, make_folder
from kdplan.runtime.store.errors import StoreLocked, writing
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


def start_token(pid: int) -> str:
    """The start time of process `pid` in clock ticks since boot, with the boot's own name; "" where it does not run.

    >>> start_token(os.getpid()) == start_token(os.getpid()) != ""
    True
    """
    try:
        # The name of the program stands in brackets and may hold spaces: count from the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _portable_token(pid)
    return "" if fields[0] in ("Z", "X") else f"{boot[:8]}-{fields[19]}"


def _portable_token(pid: int) -> str:
    """Where there is no /proc: only whether the process runs."""
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        return "runs"
    return "runs"


class Lock:
    """The lock of one folder: the files `lock` and `holder.json` in it.

    Raises
    ------
    StoreLocked
        From `acquire`, if someone holds it (KD0901).
    """

    def __init__(self, folder: Path, what: str) -> None:
        self.folder = folder
        self.what = what
        # Not the soft lock, ever: a file that only exists is the stale lock that outlives a kill.
        self._lock = FileLock(folder / "lock", timeout=0, mode=MODE, thread_local=False, fallback_to_soft=False)

    def acquire(self) -> None:
        """Takes the lock, or raises `StoreLocked`."""
        with writing(self.folder / "lock"):
            try:
                self._take()
            except Timeout as busy:
                raise self._locked() from busy
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            holder = Holder(os.getpid(), start_token(os.getpid()), socket.gethostname(), now)
            write_sealed(self.folder / "holder.json", asdict(holder))
        except BaseException:
            self._lock.release()
            raise

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
            (self.folder / "holder.json").unlink(missing_ok=True)
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
        return StoreLocked.of("KD0901", what=self.what, who=who)


def read_holder(folder: Path) -> Holder | None:
    """The holder that the side file of `folder` names, or None where no such file can be read."""
    data = read_sealed(folder / "holder.json")
    return Holder(**data) if data else None
