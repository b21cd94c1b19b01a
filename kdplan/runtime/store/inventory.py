"""What is in a store: finished phases, attempts, frozen values, with their sizes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdplan.runtime.store.errors import StoreError
from kdplan.runtime.store.sealed import read_sealed
from kdplan.runtime.store.store import State, Store
from kdplan.runtime.store.work import ABOUT

Kind = Literal["phases", "work", "values"]
"""Folders of a store whose entries are folders named by a key."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder in the store: a finished phase, an attempt, or the values of a frozen network."""

    kind: Kind
    key: str
    bytes: int
    modified: float
    """Seconds since 1970."""

    def folder(self, store: Store) -> Path:
        """Where it is."""
        return store.root / self.kind / self.key


def listed(store: Store, kind: Kind) -> Iterator[str]:
    """The keys of a kind."""
    folder = store.root / kind
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if not name.startswith("."):
            yield name


def entry(store: Store, kind: Kind, key: str) -> Entry:
    """One entry with its size; of size 0 where it is gone by now."""
    size, modified = measured(store.root / kind / key)
    return Entry(kind, key, size, modified)


def entries(store: Store, kinds: Iterable[Kind] = KINDS) -> list[Entry]:
    """All entries, largest first."""
    everything = [entry(store, kind, key) for kind in kinds for key in listed(store, kind)]
    return sorted(everything, key=lambda e: (-e.bytes, e.key))


def measured(path: Path | str) -> tuple[int, float]:
    """The bytes in a file or folder, and when the newest of its files was written; files that vanish count nothing."""
    size, newest, todo = 0, 0.0, [os.fspath(path)]
    while todo:
        try:
            with os.scandir(todo.pop()) as inside:
                for one in inside:
                    if one.is_dir(follow_symlinks=False):
                        todo.append(one.path)
                        continue
                    stat = one.stat(follow_symlinks=False)
                    size, newest = size + stat.st_size, max(newest, stat.st_mtime)
        except NotADirectoryError:
            stat = os.stat(path)
            return stat.st_size, stat.st_mtime
        except OSError:
            continue
    return size, newest


def name_of(store: Store, kind: Kind, key: str) -> str:
    """What an entry's plan called it; "" where that cannot be read."""
    folder = store.root / kind / key
    if kind == "values":
        return str(read_sealed(folder / "about.json").get("of", ""))
    if kind == "work":
        return str(read_sealed(folder / ABOUT).get("name", ""))
    try:
        return str(store.artifact(key).json("phase.json")["name"])
    except (StoreError, KeyError, TypeError):
        return ""


def state_of(store: Store, kind: Kind, key: str) -> State | Literal["damaged", "partial"]:
    """The state of an entry: done, damaged, running, interrupted; partial of values that are not all there."""
    if kind == "phases":
        return "done" if store.problem(key) is None else "damaged"
    if kind == "values":
        return "done" if read_sealed(store.root / kind / key / "about.json") else "partial"
    return "running" if store.holder(key) is not None else "interrupted"


def reads_of(store: Store, key: str) -> dict[str, str]:
    """Name -> key of the phases that a stored phase read; {} where that is not known."""
    try:
        about = (
            store.artifact(key).json("phase.json") if store.has(key) else read_sealed(store.work_folder(key) / ABOUT)
        )
        return {str(name): str(read) for name, read in about.get("reads", {}).items()}
    except (StoreError, AttributeError):
        return {}
