"""Runs with workers: what the workers read, and what they append.

runs/<run>/    about.json  snapshot.json  <key>.jsonl (moments of a phase)  worker-<n>.log  lock, holder.json
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store.atomic import names_in, remove
from kdplan.runtime.store.lock import Lock
from kdplan.runtime.store.processes import is_temporary, temporary
from kdplan.runtime.store.sealed import write_sealed

KEPT = 7 * 24 * 3600.0
"""Seconds that the folder of an ended run stays, for whoever looks for its logs."""


@dataclass
class RunFolder:
    """The folder of a run that goes on."""

    folder: Path
    lock: Lock

    def end(self, keep: bool) -> None:
        """Gives the folder back; where nobody will ask for its logs, it goes."""
        if not keep:
            _discard(self.folder)
            self.lock.abandon()
        else:
            self.lock.release()


class Runs:
    """The folder `runs/` of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, about: dict[str, Plain]) -> RunFolder:
        """A new run's folder, which nobody removes until `RunFolder.end`.

        Raises
        ------
        StoreUnwritable
        """
        name = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]
        lock = Lock(self.folder / name, "a run")
        lock.acquire()
        try:
            write_sealed(self.folder / name / "about.json", about)
        except BaseException:
            lock.release()
            raise
        return RunFolder(self.folder / name, lock)

    def sweep(self) -> list[Path]:
        """Removes the folders of runs that have ended long ago."""
        swept = []
        for name in names_in(self.folder):
            folder = self.folder / name
            if is_temporary(name) or not folder.is_dir() or time.time() - _newest(folder) < KEPT:
                continue
            lock = Lock(folder, "a run")
            if lock.try_quietly():
                _discard(folder)
                lock.abandon()
                swept.append(folder)
        return swept


def _newest(folder: Path) -> float:
    """When something was last written in a folder."""
    times = [folder.stat().st_mtime]
    for name in names_in(folder):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _discard(folder: Path) -> None:
    gone = temporary(folder, "old")
    try:
        os.rename(folder, gone)
        remove(gone)
    except OSError:
        pass  # it goes with a later command
