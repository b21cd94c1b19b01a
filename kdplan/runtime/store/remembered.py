"""What the store knows of plan files: the last key of each phase, and all that the runs of a plan read.

plans/<hash of the file's path>.json

The last keys give reasons ("the learning rate changed"). The runs are what keeps artifacts from being removed: a plan
that was run with `--set seed=0` and with `--set seed=1` reads the phases of both. A run replaces what an earlier run
with the same settings read.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.runtime.store.atomic import make_folder
from kdplan.runtime.store.processes import is_temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed

LINES = 1000
"""So many different lines of a plan are enough to know a copy of it."""
Keys = Mapping[str, str]
"""Phase name -> key."""


@dataclass
class Remembered:
    """The record of one plan file."""

    plan: str
    """The file's path."""
    phases: dict[str, str] = field(default_factory=dict)
    """Phase name -> key, as it was last finished: it stays until another version of the phase is."""
    runs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Settings of a run, as `--set` gives them -> phase name -> key, of every phase, finished or not."""
    lines: list[str] = field(default_factory=list)
    at: float = 0.0
    """Seconds since 1970 of the last run."""

    @property
    def reads(self) -> set[str]:
        """The keys of all phases that the plan's runs read, and those of its phases when they were last finished."""
        return {key for run in (self.phases, *self.runs.values()) for key in run.values()}

    @property
    def names(self) -> dict[str, str]:
        """Key -> the name of its phase."""
        return {key: name for run in (self.phases, *self.runs.values()) for name, key in run.items()}


class Plans:
    """The records in folder `plans/` of a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, plan: Path | str) -> Path:
        """Where the record of a plan file is."""
        name = hashlib.sha256(str(Path(plan).resolve()).encode()).hexdigest()[:32]
        return self.folder / f"{name}.json"

    def of(self, plan: Path | str) -> Remembered:
        """The record of a plan file; an empty one where there is none."""
        return read(self.file(plan)) or Remembered(str(Path(plan).resolve()))

    def all(self) -> Iterator[tuple[Path, Remembered | None]]:
        """Every record; None for one that is damaged."""
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else ():
            if not is_temporary(path.name):
                yield path, read(path)

    def last_keys(self, plan: Path | str) -> dict[str, str]:
        """Phase name -> key, as plan file `plan` was last run; {} where that is not known.

        A file that is a copy, or has a new name, has those of the file most like it, of which it has half the lines.
        """
        own = self.file(plan)
        record = own if own.is_file() else self._likest(_lines(plan)) or own
        remembered = read(record)
        return remembered.phases if remembered is not None else {}

    def begin(self, plan: Path | str, settings: str, run: Keys) -> None:
        """Notes what a run with these settings reads, whether it is there or not."""
        remembered = self.of(plan)
        if not remembered.runs and remembered.phases:  # a record of 0.1.0, which knew no settings
            remembered.runs[""] = remembered.phases
        remembered.phases = self.last_keys(plan)
        remembered.runs[settings] = dict(run)
        self._write(remembered)

    def finish(self, plan: Path | str, done: Keys, whole: bool = False) -> None:
        """Sets the last keys of phases that are `done`; a `whole` run forgets those that the plan has no more."""
        remembered = self.of(plan)
        remembered.phases = {**self.last_keys(plan), **done}
        if whole:
            known = {name for run in remembered.runs.values() for name in run} | set(done)
            remembered.phases = {n: key for n, key in remembered.phases.items() if n in known}
        self._write(remembered)

    def _write(self, remembered: Remembered) -> None:
        plan = remembered.plan
        remembered.lines, remembered.at = sorted(_lines(plan)), time.time()
        make_folder(self.folder)
        write_sealed(self.file(plan), {name: getattr(remembered, name) for name in _FIELDS})

    def forget(self, plan: Path | str) -> None:
        """Removes the record of a plan file."""
        self.file(plan).unlink(missing_ok=True)

    def _likest(self, lines: set[str]) -> Path | None:
        """The record of the plan that shares the most lines with these: at least half of both together."""
        best: tuple[float, float, Path] | None = None
        for path, remembered in self.all() if lines else ():
            theirs = set(remembered.lines) if remembered is not None else set()
            alike = len(lines & theirs) / len(lines | theirs)
            if alike >= 0.5 and (best is None or (alike, path.stat().st_mtime) > best[:2]):
                best = (alike, path.stat().st_mtime, path)
        return best[2] if best is not None else None


_FIELDS = ("plan", "phases", "runs", "lines", "at")


def read(path: Path) -> Remembered | None:
    """The record in a file; None where it is absent or damaged."""
    value = read_sealed(path)
    return Remembered(**{name: value[name] for name in _FIELDS if name in value}) if value else None


def _lines(plan: Path | str) -> set[str]:
    """Hashes of a plan's lines, without comments and space; empty for a file that is not there."""
    try:
        text = Path(plan).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    lines = dict.fromkeys(" ".join(line.partition("#")[0].split()) for line in text.splitlines())
    return {hashlib.sha256(line.encode()).hexdigest()[:8] for line in list(lines)[:LINES] if line}
