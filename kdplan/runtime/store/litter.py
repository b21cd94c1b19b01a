"""What killed processes leave: temporary files and folders, attempts that cannot be resumed, locks of nobody.

Everything here may run at any time beside processes that write: a temporary file says whose it is, and a folder with a
lock is touched only with that lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from kdplan.runtime.store.atomic import remove, sweep, sweep_abandoned
from kdplan.runtime.store.attempts import ATTEMPTS, CHECKPOINTS, all_checkpoints, attempts
from kdplan.runtime.store.errors import StoreError
from kdplan.runtime.store.lease import Leases
from kdplan.runtime.store.lock import Lock, is_lock_file
from kdplan.runtime.store.locks import Locks
from kdplan.runtime.store.processes import is_temporary, temporary
from kdplan.runtime.store.runs import Runs

PARTS = (
    "phases", "work", "values", "plans", "measures", "costs", "verdicts", "plots", "leases", "runs", "speeds", "stacks",
)  # fmt: skip
"""The folders of a store."""


def sweep_store(root: Path, locks: Locks, is_sound: Callable[[str], bool]) -> list[Path]:
    """Removes what killed processes left in the store at `root`; what cannot be removed stays.

    Parameters
    ----------
    is_sound
        Whether the phase with a key is finished, so that its attempt is of no use.
    """
    swept: list[Path] = []
    if not root.is_dir():
        return swept
    plans = [folder for record in _folders(root / "plans") for folder in (record, *_folders(record))]
    inner = [*plans, *_folders(root / "speeds"), *_folders(root / "plots")]
    for folder in (root, *(root / part for part in PARTS), *inner):
        swept += sweep_abandoned(folder)
    for folder in _folders(root / "work"):
        if _is_useless(folder, is_sound) or any(map(_has_litter, _parts(folder))):
            swept += _attempt(folder, locks, is_sound)
    for folder in _folders(root / "values"):
        if _has_litter(folder) or any(map(is_lock_file, _names(folder))):
            swept += _values(folder, locks)
    if _folders(root / "leases"):
        leases = Leases(root / "leases", locks)
        with suppress(OSError, StoreError), leases.exclusive(wait=0):
            swept += leases.sweep()
    swept += Runs(root / "runs", locks).sweep()
    return swept


def _attempt(folder: Path, locks: Locks, is_sound: Callable[[str], bool]) -> Iterator[Path]:
    """Clears up a folder of `work/`, unless somebody works there; a useless one goes as a whole."""
    lock = Lock(folder, folder.name, locks)
    if not lock.try_quietly():
        return
    try:
        if _is_useless(folder, is_sound):
            # First its name, so that who begins the phase anew makes a folder of its own.
            gone = temporary(folder, "old")
            os.rename(folder, gone)
            for name in filter(is_lock_file, _names(gone)):
                remove(gone / name)
            lock.abandon()
            remove(gone)
            yield folder
            return
        for part in _parts(folder):
            for name in sweep(part):
                yield part / name
        (folder / "holder.json").unlink(missing_ok=True)
    except OSError:
        pass  # it stays until a next time
    finally:
        lock.release()


def _is_useless(folder: Path, is_sound: Callable[[str], bool]) -> bool:
    """Whether an attempt has no checkpoint, damaged ones included, or its phase is finished."""
    return not all_checkpoints(folder) or is_sound(folder.name)


def _parts(folder: Path) -> list[Path]:
    """The folders of an attempt in which something may be left."""
    return [folder, folder / ATTEMPTS, *(part for one in attempts(folder) for part in (one, one / CHECKPOINTS))]


def _values(folder: Path, locks: Locks) -> Iterator[Path]:
    """Clears up a folder of `values/`, unless somebody works there."""
    lock = Lock(folder, folder.name, locks)
    if not lock.try_quietly():
        return
    try:
        for name in sweep(folder):
            yield folder / name
        lock.remove()
    except OSError:
        pass
    finally:
        lock.release()


def _has_litter(folder: Path) -> bool:
    """Whether there is a temporary name, or a holder: a live one is skipped later, by its lock."""
    return any(is_temporary(name) or name == "holder.json" for name in _names(folder))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _folders(folder: Path) -> list[Path]:
    return [folder / n for n in _names(folder) if not n.startswith(".") and (folder / n).is_dir()]
