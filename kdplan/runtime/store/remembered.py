"""What the store knows of plan files: the last key of each phase, and all that the runs of a plan read.

plans/<hash of the file's path>/
    about.json            hashes of the plan's lines, and when it was last run
    phases/<hash>.json    one phase's name, and its key as it was last finished
    runs/<hash>.json      one setting of params, and what the run with it reads
plans/<hash>.json         all of this in one file, of earlier versions: read until the next run has written it anew

The last keys give reasons ("the learning rate changed"). The runs are what keeps artifacts from being removed: a plan
that was run with `--set seed=0` and with `--set seed=1` reads the phases of both. A run replaces what an earlier run
with the same settings read.

Each fact is a file, and none is written from what was read in it: processes that write at once lose nothing of one
another, with or without a lock.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store.atomic import clear, names_in
from kdplan.runtime.store.processes import is_temporary, temporary
from kdplan.runtime.store.sealed import read_sealed, write_sealed_files

ABOUT, PHASES, RUNS = "about.json", "phases", "runs"
"""Names in the folder of a record."""

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
    damaged: list[Path] = field(default_factory=list)
    """Its files that are not what was written, and of which nothing is known."""

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

    def record(self, plan: Path | str) -> Path:
        """The folder of the record of a plan file."""
        return self.folder / _name(str(Path(plan).resolve()))

    def of(self, plan: Path | str) -> Remembered:
        """The record of a plan file, as far as it is sound; an empty one where there is none."""
        record = self.record(plan)
        return _merged(_old(record), _read(record), str(Path(plan).resolve()))

    def all(self) -> Iterator[tuple[Path, Remembered | None]]:
        """Every record; the damaged file and None for one that is damaged."""
        for record in self._records():
            old, own = _old(record), _read(record)
            damaged = [*old.damaged, *own.damaged]
            if damaged or own != Remembered("") or old != Remembered(""):  # else it has just been removed
                yield (damaged[0], None) if damaged else (record, _merged(old, own))

    def files(self) -> Iterator[Path]:
        """Every file of every record."""
        for record in self._records():
            yield from (path for path in [record.with_suffix(".json"), *_files(record)] if path.exists())

    def last_keys(self, plan: Path | str) -> dict[str, str]:
        """Phase name -> key, as plan file `plan` was last run; {} where that is not known.

        A file that is a copy, or has a new name, has those of the file most like it, of which it has half the lines.
        """
        own = self.record(plan)
        record = own if _is_there(own) else self._likest(_lines(plan)) or own
        return _merged(_old(record), _read(record, (PHASES,))).phases

    def begin(self, plan: Path | str, settings: str, run: Keys) -> None:
        """Notes what a run with these settings reads, whether it is there or not; what is damaged goes.

        Call it where nobody removes anything meanwhile: inside of `Leases.exclusive`.
        """
        record = self.record(plan)
        before, own = self.of(plan), _read(record)
        runs = dict(before.runs)
        if not runs and before.phases:  # a record of 0.1.0, which knew no settings
            runs[""] = before.phases
        phases = before.phases if _is_there(record) else self.last_keys(plan)
        for path in own.damaged:
            path.unlink(missing_ok=True)
        self._write(plan, own, phases, {**runs, settings: dict(run)})
        self._about(plan)
        record.with_suffix(".json").unlink(missing_ok=True)

    def finish(self, plan: Path | str, done: Keys) -> None:
        """Sets the last keys of phases that are `done`; any number of processes may do so at once."""
        record = self.record(plan)
        if not _is_there(record):
            done = {**self.last_keys(plan), **done}
        own = Remembered("")
        for name, key in done.items():
            if read_sealed(_phase_file(record, name)).get("key") == key:
                own.phases[name] = key
        self._write(plan, own, done, {})
        if not (record / ABOUT).exists():
            self._about(plan)

    def forget_missing(self, plan: Path | str, done: Keys) -> None:
        """Forgets the last keys of phases that no run of the plan reads and that are not `done`: it has them no more.

        Call it inside of `Leases.exclusive`, so that no run begins meanwhile.
        """
        record = self.record(plan)
        before = self.of(plan)
        known = {name for run in before.runs.values() for name in run} | set(done)
        kept = {name: key for name, key in before.phases.items() if name in known}
        self._write(plan, _read(record), kept, before.runs)
        for name in before.phases.keys() - known:
            _phase_file(record, name).unlink(missing_ok=True)
        record.with_suffix(".json").unlink(missing_ok=True)

    def forget(self, plan: Path | str) -> None:
        """Removes the record of a plan file."""
        record = self.record(plan)
        record.with_suffix(".json").unlink(missing_ok=True)
        if record.is_dir():
            gone = temporary(record, "old")
            os.rename(record, gone)  # first its name, so that no half of it is taken for the whole
            clear(gone)

    def _write(self, plan: Path | str, own: Remembered, phases: Keys, runs: Mapping[str, Keys]) -> None:
        """Writes the facts that differ from those that the record's folder has."""
        record, path = self.record(plan), str(Path(plan).resolve())
        new = {n: key for n, key in phases.items() if own.phases.get(n) != key}
        write_sealed_files({_phase_file(record, n): {"plan": path, "name": n, "key": key} for n, key in new.items()})
        changed = {s: dict(run) for s, run in runs.items() if own.runs.get(s) != dict(run)}
        write_sealed_files(
            {
                record / RUNS / f"{_name(s)}.json": {"plan": path, "settings": s, "keys": run}
                for s, run in changed.items()
            }
        )

    def _about(self, plan: Path | str) -> None:
        about = {"plan": str(Path(plan).resolve()), "lines": sorted(_lines(plan)), "at": time.time()}
        write_sealed_files({self.record(plan) / ABOUT: about})

    def _records(self) -> list[Path]:
        names = {name.removesuffix(".json") for name in names_in(self.folder) if not is_temporary(name)}
        return [self.folder / name for name in sorted(names)]

    def _likest(self, lines: set[str]) -> Path | None:
        """The record of the plan that shares the most lines with these: at least half of both together."""
        best: tuple[float, float, Path] | None = None
        for record in self._records() if lines else ():
            remembered = _merged(_old(record), _read(record, ()))
            theirs = set(remembered.lines)
            alike = len(lines & theirs) / len(lines | theirs)
            if alike >= 0.5 and (best is None or (alike, remembered.at) > best[:2]):
                best = (alike, remembered.at, record)
        return best[2] if best is not None else None


def _name(string: str) -> str:
    """A file's name for a string of any length and letters."""
    return hashlib.sha256(string.encode()).hexdigest()[:32]


def _phase_file(record: Path, name: str) -> Path:
    return record / PHASES / f"{_name(name)}.json"


def _is_there(record: Path) -> bool:
    return record.is_dir() or record.with_suffix(".json").is_file()


def _files(record: Path, kinds: Iterable[str] = (PHASES, RUNS)) -> Iterator[Path]:
    """The files of a record's folder: `about.json`, and those of some kinds."""
    yield record / ABOUT
    for kind in kinds:
        yield from (record / kind / name for name in names_in(record / kind) if not is_temporary(name))


def _read(record: Path, kinds: Iterable[str] = (PHASES, RUNS)) -> Remembered:
    """What the files of a record's folder say."""
    result = Remembered("")
    for path in _files(record, kinds):
        value = _value(path, result)
        result.plan = result.plan or value.get("plan", "")
        if path.parent.name == PHASES and value:
            result.phases[value["name"]] = value["key"]
        elif path.parent.name == RUNS and value:
            result.runs[value["settings"]] = value["keys"]
        elif value:
            result.lines, result.at = value["lines"], value["at"]
    return result


def _old(record: Path) -> Remembered:
    """What the one file of an earlier version says."""
    result = Remembered("")
    for name, content in _value(record.with_suffix(".json"), result).items():
        if name in ("plan", "phases", "runs", "lines", "at"):
            setattr(result, name, content)
    return result


def _value(path: Path, result: Remembered) -> dict[str, Plain]:
    """What a file says; `result` notes one that is there, and damaged."""
    value = read_sealed(path)
    if not value and path.exists():
        value = read_sealed(path)  # another process may have written it between
        if not value and path.exists():
            result.damaged.append(path)
    return value


def _merged(old: Remembered, own: Remembered, plan: str = "") -> Remembered:
    """What a folder says, and where it says nothing, what the file of an earlier version does."""
    newer = own if own.at else old
    return Remembered(
        plan or own.plan or old.plan, old.phases | own.phases, old.runs | own.runs, newer.lines, newer.at,
        [*old.damaged, *own.damaged],
    )  # fmt: skip


def _lines(plan: Path | str) -> set[str]:
    """Hashes of a plan's lines, without comments and space; empty for a file that is not there."""
    try:
        text = Path(plan).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    lines = dict.fromkeys(" ".join(line.partition("#")[0].split()) for line in text.splitlines())
    return {hashlib.sha256(line.encode()).hexdigest()[:8] for line in list(lines)[:LINES] if line}
