"""Where an attempt at a phase keeps its checkpoints, snapshots and metrics.

work/<key>/               with the operating system's locks: one process at a time writes here
work/<key>/attempts/<id>/ with leases: each process that takes the lease writes in a folder of its own

A process that has lost its lease without noticing writes in its own folder, or finds it gone. The next holder takes
what earlier attempts left into its own: so there is one set of checkpoints, and the newest sound one of all attempts is
the one to resume from. An attempt of the other kind, or of an earlier version, is taken over in the same way.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Checkpoint
from kdplan.runtime.store.atomic import clear, flush_folder, make_folder, names_in
from kdplan.runtime.store.errors import StoreCorrupt, writing
from kdplan.runtime.store.processes import is_temporary, temporary
from kdplan.runtime.store.sealed import opened_line, parsed

ATTEMPTS, CHECKPOINTS, SNAPSHOTS, METRICS = "attempts", "checkpoints", "snapshots", "metrics.jsonl"


def attempts(work: Path) -> list[Path]:
    """The folders of all attempts at a phase: its own, and those in `attempts/`."""
    folder = work / ATTEMPTS
    return [work, *(folder / name for name in names_in(folder) if not is_temporary(name))]


def gather(work: Path, into: Path) -> None:
    """Renames what all attempts at a phase left into one of them; only for the holder of its lock.

    Stopped in between, nothing is lost: a checkpoint is renamed after the snapshots that it names.
    """
    for source in attempts(work):
        if source == into:
            continue
        with writing(into):
            _take(source / SNAPSHOTS, into / SNAPSHOTS)
            _take(source / CHECKPOINTS, into / CHECKPOINTS)
            if (source / METRICS).exists() and not (into / METRICS).exists():
                make_folder(into)
                os.rename(source / METRICS, into / METRICS)
        left = [source / SNAPSHOTS, source / CHECKPOINTS, source / METRICS] if source == work else [source]
        for path in left:
            if path.exists():
                discard(path)
    if into == work:
        with suppress(OSError):  # it is not there
            (work / ATTEMPTS).rmdir()


def _take(source: Path, target: Path) -> None:
    """Renames what is in a folder into another; a file or checkpoint that is in both stays, unless it is damaged."""
    for name in names_in(source):
        if is_temporary(name):
            continue
        make_folder(target)
        if (target / name).is_dir() and not _is_sound(target / name):
            discard(target / name)
        if not (target / name).exists():
            os.rename(source / name, target / name)
    if target.is_dir():
        flush_folder(target)


def _is_sound(checkpoint: Path) -> bool:
    try:
        Checkpoint(checkpoint, checkpoint.name, manifest.read(checkpoint, checkpoint.name)).verify()
    except StoreCorrupt:
        return False
    return True


def discard(path: Path) -> None:
    """Removes a file or folder; a folder first loses its name, so that no half of it can be taken for the whole."""
    gone = temporary(path, "old")
    os.rename(path, gone)
    clear(gone)


def checkpoint_folders(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints in `folder` as (step, path), newest first; their content is not checked."""
    folders = []
    for name in names_in(folder):
        number = name.removeprefix("step-")
        if name.startswith("step-") and number.isascii() and number.isdigit():
            folders.append((int(number), folder / name))
    return sorted(folders, reverse=True)


def all_checkpoints(work: Path) -> list[tuple[int, Path]]:
    """The checkpoints of all attempts at a phase, newest first."""
    return sorted((one for a in attempts(work) for one in checkpoint_folders(a / CHECKPOINTS)), reverse=True)


def logged(work: Path) -> list[dict[str, Plain]]:
    """The lines that the newest attempt at a phase has logged."""
    written = []
    for attempt in attempts(work):
        with suppress(OSError):
            written.append(((attempt / METRICS).stat().st_mtime_ns, attempt / METRICS))
    return read_metrics(max(written)[1]) if written else []


def logged_step(work: Path) -> int | None:
    """The step of the last line that an attempt at a phase logged; None where it has logged none."""
    records = logged(work)
    return records[-1].get("step") if records else None


def resume_step(work: Path) -> int | None:
    """The step of the newest complete checkpoint of a phase's attempts. Hashes are not compared."""
    for step, checkpoint in all_checkpoints(work):
        try:
            manifest.read(checkpoint, checkpoint.name)
            return step
        except StoreCorrupt:
            continue  # `Work.latest_checkpoint` reports it when the phase resumes
    return None


def read_metrics(path: Path, checked: bool = True) -> list[dict[str, Plain]]:
    """The records in a metrics.jsonl that may be being written, up to the first line that is cut or altered."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    records: list[dict[str, Plain]] = []
    for line in lines[:-1]:
        record = opened_line(line) if checked else parsed(line)
        if not isinstance(record, dict):
            break  # a power cut may leave zeros: what follows cannot be trusted either
        records.append(record)
    return records
