"""Which entries of a store nobody reads, and their removal.

What stays: all that a remembered plan reads, in any of its runs; all that a running process reads; what is trained at
this moment; what the caller wants to keep, and the phases that it was made from. Frozen values stay with the phases
that read them, measured numbers with the phases that they are of.
"""

from __future__ import annotations

import os
from bisect import insort
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.diagnostics.report import Diagnostic, diagnostic, listing
from kdplan.runtime.store.atomic import flush_folder, remove
from kdplan.runtime.store.errors import StoreCorrupt, writing
from kdplan.runtime.store.inventory import KINDS, Entry, Kind, entry, listed, reads_of
from kdplan.runtime.store.lock import Lock, is_lock_file
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import read_sealed
from kdplan.runtime.store.store import Store
from kdplan.runtime.store.values import READERS


@dataclass
class Roots:
    """The phases that stay, and for whom."""

    plans: dict[str, list[str]] = field(default_factory=dict)
    """Key -> the plan files that read it."""
    kept: set[str] = field(default_factory=set)
    """Keys that the caller keeps."""
    leased: dict[str, str] = field(default_factory=dict)
    """Key -> the process that reads it."""
    names: dict[str, str] = field(default_factory=dict)
    """Key -> its phase's name in a remembered plan."""
    anything: str = ""
    """A process that may read anything."""

    def __contains__(self, key: str) -> bool:
        return bool(self.anything) or key in self.plans or key in self.kept or key in self.leased


def roots(store: Store, keep: Iterable[str] = ()) -> Roots:
    """What stays in the store, besides `keep`.

    Raises
    ------
    StoreCorrupt
        KD0918 if a plan's record is damaged, so that what the plan reads is not known.
    """
    result = Roots()
    for path, remembered in store.plans.all():
        if remembered is None:
            raise StoreCorrupt.of("KD0918", path=path, folder=path.parent)
        result.names |= remembered.names
        for key in remembered.reads:
            insort(result.plans.setdefault(key, []), remembered.plan)
    for lease in store.leases.current():
        if lease.keys is None:
            result.anything = lease.who
        result.leased |= dict.fromkeys(lease.keys or (), lease.who)
    todo = list(keep)
    while todo:
        key = todo.pop()
        if key not in result.kept:
            result.kept.add(key)
            todo += reads_of(store, key).values()
    for key in listed(store, "work"):
        if store.holder(key) is not None:
            result.leased.setdefault(key, "the process that trains it")
    return result


def garbage(store: Store, stays: Roots) -> list[Entry]:
    """The entries that nobody reads, largest first."""
    keys = [(kind, key) for kind in KINDS for key in listed(store, kind) if _is_garbage(store, kind, key, stays)]
    doomed = [entry(store, kind, key) for kind, key in keys]
    return sorted(doomed, key=lambda e: (-e.bytes, e.kind, e.key))


def _is_garbage(store: Store, kind: Kind, key: str, stays: Roots) -> bool:
    if kind != "values":
        return key not in stays
    readers = _names(store.root / kind / key / READERS)
    # Values without readers are of 0.1.0, and those that a run is about to read may not have its name yet.
    return bool(readers) and not stays.leased and not any(reader in stays for reader in readers)


def take_names(store: Store, doomed: Iterable[Entry]) -> list[tuple[Entry, Path]]:
    """Takes the names of entries away, so that none is there in half, and removes the numbers that are of them.

    Call it inside of `Leases.exclusive`, and `remove` the paths behind it. What is trained or computed at this moment
    keeps its name, and is left out of the result.
    """
    gone: list[tuple[Entry, Path]] = []
    for one in doomed:
        with suppress(FileNotFoundError):
            path = _without_name(store, one)
            if path is not None:
                gone.append((one, path))
    for kind in {one.kind for one, _ in gone}:
        flush_folder(store.root / kind)
    _remove_numbers(store, {one.key for one, _ in gone if one.kind == "phases"})
    return gone


def _without_name(store: Store, one: Entry) -> Path | None:
    """Takes an entry's name away; None where somebody works on it."""
    folder = one.folder(store)
    lock = Lock(store.work_folder(one.key) if one.kind != "values" else folder, one.key, store.locks)
    if lock.folder.is_dir() and not lock.try_quietly():
        return None
    try:
        gone = temporary(folder, "old")
        with writing(folder):
            os.rename(folder, gone)
            if folder == lock.folder:
                for name in filter(is_lock_file, os.listdir(gone)):
                    remove(gone / name)
        return gone
    finally:
        lock.abandon()


def _remove_numbers(store: Store, keys: set[str]) -> None:
    """Removes predicted costs, measured numbers and speeds of phases."""
    store.speeds.forget(keys)
    for key in keys:
        (store.root / "costs" / f"{key}.json").unlink(missing_ok=True)
    if keys:
        for path in (store.root / "measures").glob("[!.]*.json"):
            if keys & set(read_sealed(path).get("phases", [])):
                path.unlink(missing_ok=True)


def in_use(doomed: Iterable[Entry], stays: Roots, plans: Collection[str] = ()) -> Iterator[Diagnostic]:
    """What speaks against removing entries: processes that read them (KD0920), and plans besides `plans` (KD0921).

    With no `plans`, one plan may read an entry: it is taken for the one that is meant.
    """
    for one in doomed:
        readers = [plan for plan in stays.plans.get(one.key, ()) if plan not in plans]
        who = stays.anything or stays.leased.get(one.key)
        name = stays.names.get(one.key, "")
        what = f"`{name}` ({one.key[:12]})" if name else one.key[:12]
        if who:
            yield diagnostic("KD0920", None, what=what, who=who)
        elif len(readers) > (0 if plans else 1):
            yield diagnostic("KD0921", None, what=what, plans=listing(readers))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
