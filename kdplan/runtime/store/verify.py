"""Every byte of a store compared with its hash, and what a run will do about damage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Checkpoint, Folder
from kdplan.runtime.store.atomic import digest_file
from kdplan.runtime.store.attempts import METRICS, SNAPSHOTS, all_checkpoints, attempts
from kdplan.runtime.store.errors import StoreCorrupt
from kdplan.runtime.store.inventory import listed, name_of
from kdplan.runtime.store.locks import FACT
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import opened_line, read_sealed
from kdplan.runtime.store.store import NUMBERS, Store
from kdplan.runtime.store.work import ABOUT

_AHEAD = 64
"""Folders that wait for a thread to hash them."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file or folder that is not what was written.

    `kind` is phases, checkpoint, values, locks, plans, measures, costs, verdicts or speeds; `then` says what a run will
    do.
    """

    kind: str
    key: str
    name: str
    path: str
    problem: str
    then: str


@dataclass
class Verified:
    """What was looked at, and what is damaged."""

    files: int = 0
    bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)


Check = Callable[[], tuple[int, int, list[Damage]]]
"""Looks at something; gives files, bytes, damage."""


def verify(store: Store) -> Verified:
    """Hashes all that the store holds; what is written meanwhile is left out.

    Running phases are not disturbed: what vanishes or changes its name under the reader is no damage.
    """
    result = Verified()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:  # hashing runs beside Python
        for files, size, damaged in pool.map(lambda check: check(), _checks(store)):
            result.files += files
            result.bytes += size
            result.damaged += damaged
    return result


def _checks(store: Store) -> Iterator[Check]:
    for key in listed(store, "phases"):
        yield partial(_phase, store, key)
    for key in listed(store, "work"):
        yield partial(_attempt, store, key)
    for key in listed(store, "values"):
        yield partial(_values, store, key)
    yield partial(_sealed_file, "locks", store.root / FACT, _LOCKS)
    for path in store.plans.files():
        yield partial(_sealed_file, "plans", path, _PLAN)
    for kind in NUMBERS:
        yield partial(_sealed, store, kind, store.root / kind, _NUMBER)
    yield partial(_sealed_file, "speeds", store.speeds.old, _NUMBER)
    for folder in store.speeds.folders():
        yield partial(_sealed, store, "speeds", folder, _NUMBER)


_PLAN = "The next run of its plan writes it anew; until then `kdplan store gc` removes nothing."
_LOCKS = "The next run writes anew what it would choose for a new store."
_NUMBER = "It is computed again where it is needed."


def _folder(folder: Path, what: str) -> tuple[int, int, str | None]:
    """Files and bytes of a folder with a manifest, and what is wrong with it."""
    try:
        whole = Folder(folder, what, manifest.read(folder, what))
        whole.verify()
        return len(whole.files) + 1, whole.bytes, None
    except StoreCorrupt as problem:
        return 0, 0, problem.diagnostics[0].message


def _phase(store: Store, key: str) -> tuple[int, int, list[Damage]]:
    folder = store.phase_folder(key)
    files, size, problem = _folder(folder, f"phase {key[:12]}")
    if problem is None or not folder.is_dir() or _folder(folder, f"phase {key[:12]}")[2] is None:
        return files, size, []  # whole, or replaced meanwhile
    then = "A run trains it again where something needs what it holds."
    return files, size, [Damage("phases", key, name_of(store, "phases", key), str(folder), problem, then)]


def _attempt(store: Store, key: str) -> tuple[int, int, list[Damage]]:
    work, name = store.work_folder(key), name_of(store, "work", key)
    if store.holder(key) is not None:
        return 0, 0, []  # it writes at this moment
    total, total_bytes, damaged, intact = 0, 0, [], None
    for step, folder in all_checkpoints(work):
        files, size, problem = _folder(folder, f"checkpoint {folder.name} of phase {key[:12]}")
        problem = problem or _snapshots(folder.parent.parent, folder, step)
        total, total_bytes = total + files, total_bytes + size
        if problem is None:
            intact = step if intact is None else intact
        else:
            damaged.append((folder, problem))
    then = f"The phase resumes from step {intact}." if intact is not None else "The phase starts anew."
    result = [Damage("checkpoint", key, name, str(folder), problem, then) for folder, problem in damaged]
    for lines in (attempt / METRICS for attempt in attempts(work)):
        if lines.exists() and any(opened_line(line) is None for line in lines.read_bytes().split(b"\n")[:-1]):
            problem = f"A line of {lines} is not what was written."
            then = "The checkpoint has the lines up to its step."
            result.append(Damage("checkpoint", key, name, str(lines), problem, then))
    if (work / ABOUT).exists():
        result += _sealed_file("checkpoint", work / ABOUT, "It is written anew when the phase resumes.")[2]
    return total, total_bytes, result if work.is_dir() and store.holder(key) is None else []


def _snapshots(attempt: Path, folder: Path, step: int) -> str | None:
    """What is wrong with the snapshots that a checkpoint names."""
    state = Checkpoint(folder, folder.name, manifest.read(folder, folder.name), step=step).state
    for name, digest in (state.get("snapshots") or {}).get("digests", {}).items():
        path = attempt / SNAPSHOTS / name
        if not path.is_file() or digest_file(path) != digest:
            return f"{path} is missing or altered."
    return None


def _values(store: Store, key: str) -> tuple[int, int, list[Damage]]:
    folder, name = store.root / "values" / key, name_of(store, "values", key)
    total, total_bytes = 0, 0
    for number in range(len(list(folder.glob("shard-*")))):
        shard = folder / f"shard-{number}"
        files, size, problem = _folder(shard, f"shard {number} of values {key[:12]}")
        total, total_bytes = total + files, total_bytes + size
        if problem is not None:
            then = "A run computes this shard and those after it again where a phase reads them."
            return (
                total,
                total_bytes,
                [Damage("values", key, name, str(shard), problem, then)] if folder.is_dir() else [],
            )
    about = _sealed_file("values", folder / "about.json", "A run looks at the shards, and writes it anew.")
    return total + about[0], total_bytes + about[1], about[2]


def _sealed(store: Store, kind: str, folder: Path, then: str) -> tuple[int, int, list[Damage]]:
    total, total_bytes = 0, 0
    damaged: list[Damage] = []
    for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
        if not is_temporary(name):
            files, size, problems = _sealed_file(kind, folder / name, then)
            total, total_bytes, damaged = total + files, total_bytes + size, damaged + problems
    return total, total_bytes, damaged


def _sealed_file(kind: str, path: Path, then: str) -> tuple[int, int, list[Damage]]:
    """A JSON file with its hash; looked at twice, since a run may replace it."""
    if read_sealed(path) or not path.exists() or read_sealed(path):
        return (1, path.stat().st_size, []) if path.exists() else (0, 0, [])
    problem = f"{path} is not what was written: it differs from its hash."
    return 1, path.stat().st_size, [Damage(kind, path.stem, "", str(path), problem, then)]
