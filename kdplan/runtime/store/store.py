"""The store: results of runs, addressed by content hash and shared between plans.

phases/<key>/      a finished phase: manifest.json (written last), weights-<slot>-<snapshot>.safetensors,
                   metrics.jsonl, summary.json, phase.json, environment.json
work/<key>/        a running or interrupted one: lock, holder.json, metrics.jsonl, checkpoints/step-<n>/
plans/<hash>.json  phase name -> key, as the plan file was last run
values/<key>/      values of frozen networks, see `kdplan.runtime.store.values`
measures/<key>.json  costs/<key>.json  speeds.json    numbers that need not be computed twice
verdicts/<key>.json    what comparing a user's code with its graph showed
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Artifact
from kdplan.runtime.store.atomic import make_folder, remove
from kdplan.runtime.store.errors import StoreCorrupt, StoreError, StoreLocked, StoreMissing
from kdplan.runtime.store.lock import Holder, read_holder
from kdplan.runtime.store.sealed import read_sealed, write_sealed
from kdplan.runtime.store.values import Values
from kdplan.runtime.store.work import Work, checkpoint_folders, discard

State = Literal["done", "running", "interrupted", "missing"]
Numbers = Literal["measures", "costs", "verdicts"]
STALE = 24 * 3600
"""After so many seconds a temporary file of a folder without a lock is nobody's."""


LINES = 1000
"""So many different lines of a plan are enough to know a copy of it."""


def _lines(plan: Path | str) -> set[str]:
    """Hashes of a plan's lines, without comments and space; empty for a file that is not there."""
    try:
        text = Path(plan).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return set()
    lines = dict.fromkeys(" ".join(line.partition("#")[0].split()) for line in text.splitlines())
    return {hashlib.sha256(line.encode()).hexdigest()[:8] for line in list(lines)[:LINES] if line}


@dataclass(frozen=True, slots=True)
class Entry:
    """One key in the store, for listings and for clearing up."""

    key: str
    name: str
    """The phase's name in its plan, or the name of the network's value; "" where it is not known."""
    state: State
    bytes: int
    modified: float
    """Seconds since 1970."""


class Store:
    """The store in folder `root`; nothing is written before the first phase begins.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.has("k1"), store.state("k1")
    (False, 'missing')
    >>> with store.begin("k1") as work:
    ...     artifact = work.commit({"weights-0-last.safetensors": b"weights"})
    >>> store.artifact("k1").weights()
    b'weights'
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # ---- phases

    def phase_folder(self, key: str) -> Path:
        """The folder of phase `key` once it is finished."""
        assert key and key == Path(key).name and not key.startswith("."), f"key {key!r}"
        return self.root / "phases" / key

    def work_folder(self, key: str) -> Path:
        """The folder of phase `key` while it runs."""
        assert key and key == Path(key).name and not key.startswith("."), f"key {key!r}"
        return self.root / "work" / key

    def has(self, key: str) -> bool:
        """Whether phase `key` is finished; `artifact` checks whether it is sound."""
        return self.phase_folder(key).is_dir()

    def artifact(self, key: str) -> Artifact:
        """The artifact of phase `key`, with its manifest and the files' sizes checked; hashes are checked at reading.

        Raises
        ------
        StoreMissing
            KD0910 if the phase is not in the store.
        StoreCorrupt
            KD0903 or KD0904 if files are missing or cut.
        """
        folder = self.phase_folder(key)
        what = f"phase {key[:12]}"
        if not folder.is_dir():
            raise StoreMissing.of("KD0910", what=what, root=self.root, folder=folder)
        return Artifact(folder, what, manifest.read(folder, what), key=key)

    def verify(self, key: str) -> Artifact:
        """`artifact`, with every byte compared to its hash."""
        artifact = self.artifact(key)
        artifact.verify()
        return artifact

    def problem(self, key: str) -> str | None:
        """The damage of finished phase `key`, in a sentence, or None; hashes are not compared."""
        try:
            self.artifact(key)
        except (StoreCorrupt, StoreMissing) as error:
            return error.diagnostics[0].message
        return None

    def state(self, key: str) -> State:
        """The state of phase `key`. Reads only, and never disturbs a running phase."""
        if self.has(key):
            return "done"
        if not self.work_folder(key).is_dir():
            return "missing"
        if self.holder(key) is not None:
            return "running"
        return "interrupted" if self.resume_step(key) is not None else "missing"

    def holder(self, key: str) -> Holder | None:
        """The process that runs phase `key` at this moment, or None."""
        holder = read_holder(self.work_folder(key))
        return holder if holder is not None and holder.alive else None

    def resume_step(self, key: str) -> int | None:
        """The step from which phase `key` resumes, its newest complete checkpoint's. Hashes are not compared."""
        for step, folder in checkpoint_folders(self.work_folder(key) / "checkpoints"):
            try:
                manifest.read(folder, folder.name)
                return step
            except StoreCorrupt:
                continue  # `Work.latest_checkpoint` reports it when the phase resumes
        return None

    def begin(self, key: str) -> Work:
        """Takes phase `key`'s lock and its folder for running; a context manager that gives the lock back.

        Another process may have finished the phase while this one was planning: ask `has` once more afterwards.

        Raises
        ------
        StoreLocked
            KD0901 if another process runs it.
        """
        return Work(self.work_folder(key), self.root / "phases", key)

    def values(self, key: str, of: str) -> Values:
        """The folder of a frozen value; `of` is its name in messages."""
        assert key and key == Path(key).name and not key.startswith("."), f"key {key!r}"
        return Values(self.root / "values" / key, of)

    # ---- the last keys of a plan file

    def _plan_file(self, plan: Path | str) -> Path:
        name = hashlib.sha256(str(Path(plan).resolve()).encode()).hexdigest()[:32]
        return self.root / "plans" / f"{name}.json"

    def last_keys(self, plan: Path | str) -> dict[str, str]:
        """Phase name -> key, as plan file `plan` was last run; {} where that is not known.

        A file that is a copy, or has a new name, has those of the file most like it, of which it has half the lines.
        """
        own = self._plan_file(plan)
        record = own if own.is_file() else self._likest(_lines(plan)) or own
        return dict(read_sealed(record).get("phases", {}))

    def remember(self, plan: Path | str, keys: Mapping[str, str]) -> None:
        """Sets the last keys of plan file `plan`; phases that it does not name keep theirs."""
        path = self._plan_file(plan)
        make_folder(path.parent)
        phases = {**self.last_keys(plan), **keys}
        write_sealed(path, {"plan": str(Path(plan).resolve()), "phases": phases, "lines": sorted(_lines(plan))})

    def _likest(self, lines: set[str]) -> Path | None:
        """The record of the plan that shares the most lines with these: at least half of both together."""
        best: tuple[float, float, Path] | None = None
        folder = self.root / "plans"
        for path in folder.glob("*.json") if lines and folder.is_dir() else ():
            theirs = set(read_sealed(path).get("lines", []))
            alike = len(lines & theirs) / len(lines | theirs)
            if alike >= 0.5 and (best is None or (alike, path.stat().st_mtime) > best[:2]):
                best = (alike, path.stat().st_mtime, path)
        return best[2] if best is not None else None

    # ---- numbers

    def number(self, kind: Numbers, key: str) -> dict[str, Plain] | None:
        """The stored value of `kind` under `key`, or None."""
        return read_sealed(self.root / kind / f"{key}.json") or None

    def keep_number(self, kind: Numbers, key: str, value: Mapping[str, Plain]) -> None:
        """Stores a value of `kind` under `key`."""
        path = self.root / kind / f"{key}.json"
        make_folder(path.parent)
        write_sealed(path, dict(value))

    def speeds(self) -> dict[str, float]:
        """Device and arithmetic -> the floating-point operations a second that were measured there."""
        return {name: float(v) for name, v in read_sealed(self.root / "speeds.json").items()}

    def keep_speed(self, device: str, value: float) -> None:
        """Sets the speed measured on `device`."""
        make_folder(self.root)
        write_sealed(self.root / "speeds.json", {**self.speeds(), device: value})

    # ---- clearing up

    def entries(self) -> list[Entry]:
        """All keys with their sizes, largest first."""
        entries = []
        for part in ("phases", "work", "values"):
            folder = self.root / part
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.is_dir() and not entry.name.startswith("."):
                    files = [f.stat() for f in entry.rglob("*") if f.is_file()]
                    about = read_sealed(entry / "about.json") if part == "values" else {}
                    name = self._name(entry.name) if part == "phases" else str(about.get("of", ""))
                    state: State = "done" if part == "phases" or about else self.state(entry.name)
                    size = sum(s.st_size for s in files)
                    entries.append(Entry(entry.name, name, state, size, max((s.st_mtime for s in files), default=0.0)))
        return sorted(entries, key=lambda e: (-e.bytes, e.key))

    def _name(self, key: str) -> str:
        """The name that a finished phase had in its plan; "" where that cannot be read."""
        try:
            return str(self.artifact(key).json("phase.json")["name"])
        except StoreError:
            return ""

    def drop(self, key: str) -> None:
        """Removes everything of phase `key`: it will be trained anew.

        Raises
        ------
        StoreLocked
            If it is being run.
        """
        with self.begin(key) as work:
            if self.has(key):
                discard(self.phase_folder(key))
            work.discard()

    def sweep(self) -> list[Path]:
        """Removes leftovers of killed processes: finished phases' work, and temporary files a day old or older."""
        swept = []
        for folder in (self.root, *(self.root / n for n in ("phases", "plans", *get_args(Numbers)))):
            for entry in folder.iterdir() if folder.is_dir() else ():
                if entry.name.startswith((".new-", ".old-")) and entry.lstat().st_mtime < time.time() - STALE:
                    remove(entry)
                    swept.append(entry)
        work = self.root / "work"
        for entry in work.iterdir() if work.is_dir() else ():
            if self.has(entry.name) and self.problem(entry.name) is None and self.holder(entry.name) is None:
                # Killed between the commit and the end of its clearing up.
                with suppress(StoreLocked):
                    self.begin(entry.name).discard()
                    swept.append(entry)
        return swept
