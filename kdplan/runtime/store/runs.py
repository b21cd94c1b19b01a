"""Runs that go on: what happens in each phase, and what workers read and append.

runs/<run>.log the output of a run in the background
runs/<run>/    about.json, <key>.jsonl (moments of a phase), lock, holder.json; with workers snapshot.json and logs
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store.atomic import names_in, write
from kdplan.runtime.store.errors import StoreUnwritable
from kdplan.runtime.store.lock import Lock
from kdplan.runtime.store.locks import Locks
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import parsed, write_sealed

KEPT = 7 * 24 * 3600.0
"""Seconds that the folder of a run stays in which a phase failed, for whoever looks for its logs."""
RUN = "about.json"
KEEP = "failed"
"""The file that says so."""
TAIL = 4096
"""The bytes at the end of a phase's file in which its newest step is looked for."""
STEPS = {"phase_started": 3, "progress": 1, "checkpointed": 1, "stopped": 1}
"""Moment of a phase -> which of its arguments is the step."""


@dataclass
class RunFolder:
    """The folder of a run that goes on."""

    folder: Path
    lock: Lock

    def end(self, keep: bool) -> None:
        """Gives the folder back; where nobody will ask for its logs, it goes."""
        if not keep:
            self.lock.remove_folder()
            return
        with suppress(StoreUnwritable):
            write(self.folder / KEEP, b"")
        self.lock.release()


class Runs:
    """The folder `runs/` of a store."""

    def __init__(self, folder: Path, locks: Locks) -> None:
        self.folder, self.locks = folder, locks

    def begin(self, about: dict[str, Plain]) -> RunFolder:
        """A new run's folder, which nobody removes until `RunFolder.end`.

        Raises
        ------
        StoreUnwritable
        """
        name = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + uuid.uuid4().hex[:6]
        lock = Lock(self.folder / name, "a run", self.locks)
        lock.acquire()
        try:
            write_sealed(self.folder / name / RUN, about)
        except BaseException:
            lock.release()
            raise
        return RunFolder(self.folder / name, lock)

    def step(self, key: str) -> int | None:
        """The step in the newest line about phase `key`, of all runs that train it or did; None where none says it."""
        newest: tuple[float, int] | None = None
        for path in self.folder.glob(f"*/{key}.jsonl"):
            try:
                at = path.stat().st_mtime
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - TAIL))
                    lines = file.read().splitlines()
            except OSError:
                continue
            steps = [step for line in lines if (step := _step(parsed(line))) is not None]
            if steps and (newest is None or at > newest[0]):
                newest = (at, steps[-1])
        return newest[1] if newest is not None else None

    def sweep(self) -> list[Path]:
        """Removes the folders of runs that have ended; those in which a phase failed, when that is long ago."""
        swept = []
        for name in names_in(self.folder):
            folder = self.folder / name
            if is_temporary(name):
                continue
            if not folder.is_dir():  # the output of a run that went on in the background
                if _is_old(folder):
                    folder.unlink(missing_ok=True)
                    swept.append(folder)
                continue
            if (folder / KEEP).exists() and not _is_old(folder):
                continue
            lock = Lock(folder, "a run", self.locks)
            if lock.try_quietly():
                lock.remove_folder()
                swept.append(folder)
        return swept


def _step(moment: Plain) -> int | None:
    """The step in a moment of a phase, where it has one."""
    index = STEPS.get(str(moment.get("moment"))) if isinstance(moment, dict) else None
    arguments = moment.get("arguments", []) if index is not None else []
    step = arguments[index] if index is not None and index < len(arguments) else None
    return step if isinstance(step, int) else None


def _is_old(folder: Path) -> bool:
    """Whether nothing was written to a file, or in a folder, for as long as it is kept; not where it is gone."""
    try:
        times = [folder.stat().st_mtime]
    except OSError:
        return False
    for name in names_in(folder):
        try:
            times.append((folder / name).stat().st_mtime)
        except OSError:
            continue
    return time.time() - max(times) > KEPT
