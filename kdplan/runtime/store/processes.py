"""Which process wrote a file, and whether it still runs.

A process is known by its number and its start time, within one boot and one space of process numbers: a number that
was given to another process since, or that means another process in a container, is not taken for it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import socket
import time
from functools import cache
from pathlib import Path

STALE = 24 * 3600
"""After so many seconds a temporary file is nobody's, where it cannot be known whether its writer still runs."""

_NAME = re.compile(r"\.(?:new|old)-(?P<space>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-\d+-")
_LEFT = (".new-", ".old-")
_number = itertools.count()


def start_token(pid: int) -> str:
    """The start time of process `pid` in clock ticks since boot, with the boot's own name; "" where it does not run.

    >>> start_token(os.getpid()) == start_token(os.getpid()) != ""
    True
    """
    start = _start(pid)
    return f"{_boot()[:8]}-{start}" if start and start.isdigit() else start


def _start(pid: int) -> str:
    """The start time of a process in ticks since boot; "runs" where that is all that is known, "" if it does not."""
    try:
        # The name of the program stands in brackets and may hold spaces: count from the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return _portable(pid)
    return "" if fields[0] in ("Z", "X") else fields[19]


def _portable(pid: int) -> str:
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


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


@cache
def _space() -> str:
    """The boot and the space of process numbers in which this process has its number, as 8 digits."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{socket.gethostname()} {_boot()} {numbers}".encode()).hexdigest()[:8]


@cache
def _own_start(pid: int) -> str:
    start = _start(pid)
    return start if start.isdigit() else "0"


def temporary(path: Path, kind: str = "new") -> Path:
    """An unused name in the folder of `path`, which says which process made it.

    >>> temporary(Path("a/b.json")).parent, is_temporary(temporary(Path("a/b.json")).name)
    (PosixPath('a'), True)
    """
    pid = os.getpid()
    return path.with_name(f".{kind}-{_space()}-{pid}-{_own_start(pid)}-{next(_number)}-{path.name}")


def is_temporary(name: str) -> bool:
    """Whether a file with this name is temporary, of this or an earlier version of kdplan."""
    return name.startswith(_LEFT)


def is_abandoned(path: Path) -> bool:
    """Whether `path` is a temporary file or folder whose writer has ended, or one that is old and of an unknown writer.

    >>> is_abandoned(temporary(Path("a")))
    False
    >>> is_abandoned(Path(f".new-{_space()}-{os.getpid()}-1-0-a"))  # of an ended process with the number of this one
    True
    """
    if not is_temporary(path.name):
        return False
    writer = _NAME.match(path.name)
    if writer is not None and writer["space"] == _space():
        start = _start(int(writer["pid"]))
        return start == "" or (start.isdigit() and writer["start"] != "0" and start != writer["start"])
    try:
        return path.lstat().st_mtime < time.time() - STALE
    except OSError:
        return False  # it is gone
