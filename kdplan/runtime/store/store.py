"""The store: results of runs, addressed by content hash and shared between plans.

phases/<key>/      a finished phase: manifest.json (written last), weights-<slot>-<snapshot>.safetensors,
                   metrics.jsonl, summary.json, phase.json, environment.json
work/<key>/        a running or interrupted one: lock or lease, holder.json, phase.json; metrics.jsonl, snapshots/ and
                   checkpoints/step-<n>/, with leases in attempts/<id>/, see `kdplan.runtime.store.attempts`
locks.json         the kind of the store's locks, see `kdplan.runtime.store.locks`
plans/<hash>/      what a plan file's runs read, see `kdplan.runtime.store.remembered`
leases/<name>/     what a running process reads, see `kdplan.runtime.store.lease`
runs/<run>/        a run with workers, see `kdplan.runtime.store.runs`
values/<key>/      values of frozen networks, see `kdplan.runtime.store.values`
measures/<key>.json  costs/<key>.json    numbers that need not be computed twice
speeds/<device>/<key>.json    how fast a device trained a phase, see `kdplan.runtime.store.speeds`
verdicts/<key>.json    what comparing a user's code with its graph showed
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args

from kdplan.diagnostics.report import Diagnostic
from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Artifact
from kdplan.runtime.store.atomic import make_folder
from kdplan.runtime.store.attempts import discard, logged, logged_step, resume_step
from kdplan.runtime.store.errors import StoreCorrupt, StoreLocked, StoreMissing, StoreUnwritable
from kdplan.runtime.store.lease import Leases
from kdplan.runtime.store.litter import sweep_store
from kdplan.runtime.store.lock import Holder, Lock, living
from kdplan.runtime.store.locks import Locks
from kdplan.runtime.store.remembered import Plans
from kdplan.runtime.store.runs import Runs
from kdplan.runtime.store.sealed import read_sealed, write_sealed
from kdplan.runtime.store.speeds import Speeds
from kdplan.runtime.store.values import Values
from kdplan.runtime.store.work import Work

State = Literal["done", "running", "interrupted", "missing"]
Numbers = Literal["measures", "costs", "verdicts"]
NUMBERS: tuple[Numbers, ...] = get_args(Numbers)


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

    work_class: type[Work] = Work
    """What `begin` gives."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        self.locks = Locks(self.root)
        self.plans = Plans(self.root / "plans")
        self.leases = Leases(self.root / "leases", self.locks)
        self.runs = Runs(self.root / "runs", self.locks)
        self._watched: dict[str, Lock] = {}
        """Key -> a lock that was found held: with leases, the same object must look at it again."""
        self.speeds = Speeds(self.root)
        self.refused: StoreUnwritable | None = None
        """The first refusal to store a number, which is shown and computed again next time."""

    @property
    def location(self) -> str:
        """What `--store` means this store: its folder, or the address of one in the cloud."""
        return str(self.root)

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
        return living(self.work_folder(key), self.locks)

    def running_step(self, key: str) -> int | None:
        """The step that phase `key` was at when it was last heard of, whichever process runs it."""
        steps = [logged_step(self.work_folder(key)), self.runs.step(key)]
        return max((step for step in steps if step is not None), default=None)

    def logged(self, key: str) -> list[dict[str, Plain]]:
        """The lines of metrics that the newest attempt at phase `key` has logged."""
        return logged(self.work_folder(key))

    def resume_step(self, key: str) -> int | None:
        """The step from which phase `key` resumes, its newest complete checkpoint's. Hashes are not compared."""
        return resume_step(self.work_folder(key))

    def begin(self, key: str, watch: bool = False) -> Work:
        """Takes phase `key`'s lock and its folder for running; a context manager that gives the lock back.

        Another process may have finished the phase while this one was planning: ask `has` once more afterwards.
        With `watch`, a lease whose holder seems to have ended is watched until that is known. Without it, that is known
        to a later call of the same store.

        Raises
        ------
        StoreLocked
            KD0901 if another process runs it.
        """
        folder = self.work_folder(key)
        lock = self._watched.pop(key, None) or Lock(folder, f"phase {key[:12]}", self.locks)
        kind = self.locks.known()
        ended = watch and kind.name == "lease" and folder.is_dir() and self.holder(key) is None
        try:
            lock.acquire(1.5 * kind.seconds if ended else 0.0)
        except StoreLocked:
            self._watched[key] = lock
            raise
        return self.work_class(folder, self.root / "phases", key, lock)

    def values(self, key: str, of: str) -> Values:
        """The folder of a frozen value; `of` is its name in messages."""
        assert key and key == Path(key).name and not key.startswith("."), f"key {key!r}"
        return Values(self.root / "values" / key, of, self.locks)

    # ---- plans, and who reads what

    def last_keys(self, plan: Path | str) -> dict[str, str]:
        """Phase name -> key, as plan file `plan` was last run; {} where that is not known. See `Plans.last_keys`."""
        return self.plans.last_keys(plan)

    def remember(self, plan: Path | str, keys: Mapping[str, str], whole: bool = False) -> None:
        """Sets the last keys of plan file `plan`; phases that it does not name keep theirs, unless the run was `whole`.

        A store that takes no more is left as it is. Processes that do so at once lose nothing of one another.
        """
        with suppress(StoreUnwritable, StoreLocked):
            self.plans.finish(plan, keys)
            if whole:
                with self.leases.exclusive():
                    self.plans.forget_missing(plan, keys)

    @contextmanager
    def reading(
        self, keys: Mapping[str, str], plan: Path | str = "", settings: str = "", optional: bool = False
    ) -> Iterator[None]:
        """Inside, nobody removes the phases with these keys (name -> key); a `plan` is remembered to read them.

        With `optional`, a store that cannot be written is read all the same.

        Raises
        ------
        StoreUnwritable
        StoreLocked
            KD0917 if another process does not end to register or to remove.
        """
        lease: Lock | None = None
        with suppress(*([StoreUnwritable] if optional else [])), self.leases.exclusive():
            lease = self.leases.begin(keys.values())
            if plan:
                self.plans.begin(plan, settings, keys)
        try:
            yield
        finally:
            if lease is not None:
                self.leases.end(lease)

    # ---- numbers

    def number(self, kind: Numbers, key: str) -> dict[str, Plain] | None:
        """The stored value of `kind` under `key`, or None."""
        return read_sealed(self.root / kind / f"{key}.json") or None

    def keep_number(self, kind: Numbers, key: str, value: Mapping[str, Plain]) -> None:
        """Stores a value of `kind` under `key`; a refusal is noted only, since it can be computed again."""
        path = self.root / kind / f"{key}.json"
        with self._noting():
            make_folder(path.parent)
            write_sealed(path, dict(value))

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Inside, a store that takes no more ends the block, and is noted in `refused`."""
        try:
            yield
        except StoreUnwritable as problem:
            self.refused = self.refused or problem

    def keep_speed(self, device: str, key: str, speed: float) -> None:
        """Notes how fast `device` trained phase `key`; a refusal is noted only."""
        with self._noting():
            self.speeds.keep(device, key, speed)

    def stack_ratio(self, device: str, stack: str) -> float | None:
        """The time of a stack in parts of that of its phases alone on `device`; None where it was not measured."""
        return self.speeds.stack_ratio(device, stack)

    def keep_stack_ratio(self, device: str, stack: str, ratio: float) -> None:
        """Notes how much faster a stack was on `device`; a refusal is noted only."""
        with self._noting():
            self.speeds.keep_stack_ratio(device, stack, ratio)

    def settle(self) -> Diagnostic | None:
        """The end of a run: a store that other machines share gives them what they lack. A warning where it cannot."""
        return None

    # ---- clearing up

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
        """Removes what killed processes left; never anything of a process that runs."""
        return sweep_store(self.root, self.locks, lambda key: self.has(key) and self.problem(key) is None)
