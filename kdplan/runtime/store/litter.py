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
from kdplan.runtime.store.errors import StoreError
from kdplan.runtime.store.lease import Leases
from kdplan.runtime.store.lock import Lock
from kdplan.runtime.store.processes import is_temporary, temporary
from kdplan.runtime.store.work import checkpoint_folders

PARTS = ("phases", "work", "values", "plans", "measures", "costs", "verdicts", "plots", "leases", "speeds")
"""The folders of a store."""


def sweep_store(root: Path, is_sound: Callable[[str], bool]) -> list[Path]:
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
        if _is_useless(folder, is_sound) or _has_litter(folder) or _has_litter(folder / "checkpoints"):
            swept += _attempt(folder, is_sound)
    for folder in _folders(root / "values"):
        if _has_litter(folder) or (folder / "lock").exists():
            swept += _values(folder)
    if _folders(root / "leases"):
        leases = Leases(root / "leases")
        with suppress(OSError, StoreError), leases.exclusive(wait=0):
            swept += leases.sweep()
    return swept


def _attempt(folder: Path, is_sound: Callable[[str], bool]) -> Iterator[Path]:
    """Clears up a folder of `work/`, unless somebody works there; a useless one goes as a whole."""
    lock = Lock(folder, folder.name)
    if not lock.try_quietly():
        return
    try:
        if _is_useless(folder, is_sound):
            # First its name, so that who begins the phase anew makes a folder of its own.
            gone = temporary(folder, "old")
            os.rename(folder, gone)
            remove(gone / "lock")
            lock.abandon()
            remove(gone)
            yield folder
            return
        for part in (folder, folder / "checkpoints"):
            for name in sweep(part):
                yield part / name
        (folder / "holder.json").unlink(missing_ok=True)
    except OSError:
        pass  # it stays until a next time
    finally:
        lock.release()


def _is_useless(folder: Path, is_sound: Callable[[str], bool]) -> bool:
    """Whether an attempt has no checkpoint, damaged ones included, or its phase is finished."""
    return not checkpoint_folders(folder / "checkpoints") or is_sound(folder.name)


def _values(folder: Path) -> Iterator[Path]:
    """Clears up a folder of `values/`, unless somebody works there."""
    lock = Lock(folder, folder.name)
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
