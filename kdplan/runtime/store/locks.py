"""Which kind of lock a store uses: the operating system's (flock), or leases where several machines see the store.

locks.json    the kind, written with the first lock and never changed: all processes that share a store use the same

The operating system's lock ends with its process, whatever ends that, but not every shared file system passes it on to
other machines. A lease is a file that its holder renews by a thread. Who wants it watches it: a file that did not
change for one lease, by the watcher's own monotonic time, is of a dead process. So nothing is taken from anybody
because two machines have different times.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from kdplan.diagnostics.report import error
from kdplan.runtime.store.atomic import clear, json_bytes, make_folder, put, write_new
from kdplan.runtime.store.errors import StoreUnwritable
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import read_sealed, sealed, write_sealed

Name = Literal["flock", "lease"]
SECONDS = 60.0
"""The length of a lease, unless `KDPLAN_LEASE_SECONDS` says otherwise. It is renewed three times as often."""
FACT = "locks.json"

SHARED = {
    "9p", "acfs", "afs", "beegfs", "beegfs_nodev", "ceph", "cifs", "coda", "gfs", "gfs2", "glusterfs", "gpfs",
    "lustre", "mmfs", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs",
    "vboxsf", "virtiofs", "wekafs",
}  # fmt: skip
"""Types of file systems that other machines may see, too."""
LOCAL_FUSE = {
    "fuse.bindfs", "fuse.encfs", "fuse.exfat", "fuse.fuse-overlayfs", "fuse.gocryptfs", "fuse.lxcfs", "fuse.mergerfs",
    "fuse.ntfs", "fuse.ntfs-3g", "fuse.portal", "fuse.unionfs", "fuse.zfs-fuse",
}  # fmt: skip
"""File systems in user space that are of one machine. All others, such as `fuse.sshfs`, are taken for shared."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of a store's locks."""

    name: Name
    seconds: float = SECONDS
    """The length of a lease."""

    def __str__(self) -> str:
        return f"leases of {self.seconds:g} s" if self.name == "lease" else "the operating system's locks"


class Locks:
    """What the processes that share the store at `root` have agreed on.

    Examples
    --------
    >>> import tempfile
    >>> locks = Locks(Path(tempfile.mkdtemp()))
    >>> locks.known().name, (locks.root / FACT).exists()
    ('flock', False)
    >>> locks.settled().name, (locks.root / FACT).exists()
    ('flock', True)
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._agreed: Kind | None = None

    def known(self) -> Kind:
        """The kind that the store uses, or that its first lock will have.

        Raises
        ------
        PlanError
            KD0930 if this process would choose another kind than the store has; KD0932 for a setting without a meaning.
        """
        if self._agreed is None:
            fact = _fact(self.root / FACT)
            if fact is None:
                return self._wanted[0]
            self._agreed = self._compared(fact)
        return self._agreed

    def settled(self) -> Kind:
        """`known`, which is now the store's for ever.

        Raises
        ------
        StoreUnwritable
        """
        kind = self.known()
        if self._agreed is None:
            make_folder(self.root)
            fact = {"kind": kind.name, "seconds": kind.seconds}
            if not write_new(self.root / FACT, json_bytes(sealed(fact))) and _fact(self.root / FACT) is None:
                write_sealed(self.root / FACT, fact)  # the one that is there is damaged
            kind = self.known()  # another process may have been first
        return kind

    def _compared(self, fact: Kind) -> Kind:
        wanted, reason = self._wanted
        length = fact.name == "lease" and "KDPLAN_LEASE_SECONDS" in os.environ and fact.seconds != wanted.seconds
        if length:
            reason = f"`KDPLAN_LEASE_SECONDS` is {wanted.seconds:g}"
        # Leases are right everywhere: only who insists on the other kind is refused.
        if length or (fact.name != wanted.name and (fact.name == "flock" or "KDPLAN_LOCKS" in os.environ)):
            raise error("KD0930", None, root=self.root, known=fact, reason=reason, file=self.root / FACT)
        return fact

    @cached_property
    def _wanted(self) -> tuple[Kind, str]:
        """What this process chooses for a new store, and why."""
        seconds = lease_seconds()
        if (name := os.environ.get("KDPLAN_LOCKS")) is not None:
            if name not in get_args(Name):
                raise error("KD0932", None, name="KDPLAN_LOCKS", value=name, wanted="`flock` or `lease`")
            return Kind("lease" if name == "lease" else "flock", seconds), f"`KDPLAN_LOCKS` is `{name}`"
        kind = type_of(self.root)
        if is_shared(kind):
            return Kind("lease", seconds), f"this machine sees it on a shared file system (`{kind}`)"
        return Kind("flock", seconds), f"this machine sees it on a local file system (`{kind}`)"

    def age(self, path: Path) -> float:
        """Seconds since `path` was written, by the time of the file system that holds it; infinite where it is not.

        For what is shown only: some file systems have the times of those who write.
        """
        try:
            written = _written(path)
        except OSError:
            return math.inf
        return time.time() + self._ahead - written

    @cached_property
    def _ahead(self) -> float:
        """Seconds that the file system's time is ahead of this machine's; 0 where nothing may be written."""
        probe = temporary(self.root / "time")
        try:
            put(probe, b"")
            return _written(probe) - time.time()
        except (OSError, StoreUnwritable):
            return 0.0
        finally:
            clear(probe)


def _written(path: Path) -> float:
    # Opening a file makes NFS ask its server, where a mere stat may answer from a minute ago.
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _fact(path: Path) -> Kind | None:
    """The kind that a store's file names; None where it is absent or damaged."""
    fact = read_sealed(path)
    return Kind(fact["kind"], float(fact["seconds"])) if fact.get("kind") in get_args(Name) else None


def lease_seconds() -> float:
    """The length of this process's leases.

    Raises
    ------
    PlanError
        KD0932 if `KDPLAN_LEASE_SECONDS` is no length.
    """
    value = os.environ.get("KDPLAN_LEASE_SECONDS", str(SECONDS))
    with suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise error("KD0932", None, name="KDPLAN_LEASE_SECONDS", value=value, wanted="a number of seconds above 0")


def is_shared(kind: str) -> bool:
    """Whether other machines may see a file system of this type.

    >>> is_shared("nfs4"), is_shared("ext4"), is_shared("fuse.sshfs"), is_shared("fuse.ntfs-3g"), is_shared("")
    (True, False, True, False, False)
    """
    return kind in SHARED or (kind.startswith("fuse.") and kind not in LOCAL_FUSE)


def type_of(path: Path, mounts: Iterable[str] | None = None) -> str:
    """The type of the file system that holds `path`, from the lines of the mount table; "" where there is no table.

    >>> table = [r"1 0 8:1 / / rw - ext4 /dev/sda rw", r"2 1 0:9 / /big\\040disk rw shared:5 - nfs4 host:/x rw"]
    >>> type_of(Path("/big disk/store"), table), type_of(Path("/big"), table)
    ('nfs4', 'ext4')
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
        except OSError:
            return ""
    target, best, kind = path.resolve(), -1, ""
    for line in mounts:
        fields, _, rest = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4]))
        # Of two that are mounted at one path, the later one is seen.
        if len(point.parts) >= best and target.is_relative_to(point):
            best, kind = len(point.parts), rest.split(" ")[0]
    return kind
