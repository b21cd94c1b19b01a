"""A store that several machines share: a cache, which is an ordinary store, in front of objects in the cloud.

The cache has all that a local store has, and besides:

outbox/<key>    phases that were trained here, and are not known to be in the cloud
service.json    what is known of the service

One listing of the index says what the cloud has. Artifacts are copied when something reads them, and numbers all at
once when one is missing. Checkpoints and frozen values stay on the machine that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from kdplan.diagnostics.report import Diagnostic, counted, diagnostic
from kdplan.ir.plan import Plain
from kdplan.runtime.remote import artifacts
from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.artifacts import Entry
from kdplan.runtime.remote.leases import Lease, Leases
from kdplan.runtime.remote.numbers import pull_numbers, push_numbers
from kdplan.runtime.remote.objects import Objects, StoreRefused, StoreUnreachable
from kdplan.runtime.store.artifact import Artifact
from kdplan.runtime.store.atomic import Content, make_folder, names_in, write
from kdplan.runtime.store.attempts import logged_step
from kdplan.runtime.store.errors import StoreCorrupt, StoreMissing, StoreUnwritable
from kdplan.runtime.store.lock import Holder
from kdplan.runtime.store.store import NUMBERS, Numbers, State, Store
from kdplan.runtime.store.work import Work

T = TypeVar("T")


class SharedWork(Work):
    """A phase that is being run, locked for this machine's processes and for other machines."""

    store: RemoteStore | None = None
    lease: Lease | None = None

    def share(self, store: RemoteStore) -> None:
        """Takes the lock for other machines.

        Raises
        ------
        StoreLocked
        StoreUnreachable
        """
        self.store = store
        self.lease = store.shared.take(self.key, self.what, lambda: logged_step(self.folder))

    def commit(self, files: Mapping[str, Content | Mapping[str, Plain] | list[Plain]]) -> Artifact:
        """As of any work; the artifact is pushed, too, and where another machine's came first, that one is given."""
        assert self.store is not None
        self.store.mark(self.key)
        super().commit(files)
        self.store.push(self.key)
        return self.store.artifact(self.key)

    def close(self) -> None:
        """Gives both locks back."""
        try:
            super().close()
        finally:
            if self.lease is not None:
                lease, self.lease = self.lease, None
                lease.release()


class RemoteStore(Store):
    """The store at an address, with its cache in `root`.

    Nothing is asked of the service before something of it is wanted. Where it cannot be reached, the cache is read, and
    `report` receives a warning.

    Examples
    --------
    >>> import tempfile
    >>> one, other = (RemoteStore(tempfile.mkdtemp(), Address("memory", "lab", "shared")) for _ in range(2))
    >>> with one.begin("k1") as work:
    ...     _ = work.commit({"weights-0-last.safetensors": b"weights"})
    >>> other.has("k1"), other.artifact("k1").weights()
    (True, b'weights')
    """

    work_class = SharedWork

    def __init__(
        self, root: Path | str, address: Address, report: Callable[[Diagnostic], None] = lambda _: None
    ) -> None:
        super().__init__(root)
        self.address = address
        self.report = report
        self.objects = Objects(address, report, self.root / "service.json")
        self.shared = Leases(self.objects)
        self._index: dict[str, set[str]] | None = None
        self._entries: dict[str, Entry] = {}
        self._damaged: set[str] = set()
        self._mirrored: set[str] = set()
        self._silent = False

    @property
    def location(self) -> str:
        """The address."""
        return str(self.address)

    def __repr__(self) -> str:
        return f"RemoteStore({str(self.root)!r}, {str(self.address)!r})"

    # ---- what the cloud has

    @property
    def index(self) -> dict[str, set[str]]:
        """Kind (phases, measures, costs, verdicts) -> keys that the cloud has, as it was first asked."""
        if self._index is None:
            try:
                self._index = artifacts.listed_index(self.objects)
            except StoreUnreachable as problem:
                self._index = {kind: set() for kind in ("phases", *NUMBERS)}
                self._offline(problem)
        return self._index

    def _offline(self, problem: StoreUnreachable) -> None:
        """Reports once that only the cache is read."""
        if not self._silent:
            self._silent = True
            reason = problem.diagnostics[0].message
            self.report(diagnostic("KD0945", None, cache=self.root, reason=reason))

    def has(self, key: str) -> bool:
        """Whether phase `key` is finished, here or in the cloud."""
        return super().has(key) or key in self.index["phases"]

    def artifact(self, key: str) -> Artifact:
        """As of any store; of an artifact in the cloud, files are copied when one is read.

        Raises
        ------
        StoreUnreachable
            KD0944, also when a file is read, if the service is needed and cannot be reached.
        """
        try:
            local = super().artifact(key)
        except (StoreMissing, StoreCorrupt):
            if key not in self.index["phases"]:
                raise
            entry = self._entry(key)
            return RemoteArtifact(
                self.phase_folder(key), f"phase {key[:12]}", entry.files, key=key, store=self, entry=entry
            )
        if self._index is None or key not in self._index["phases"]:
            return local
        return RemoteArtifact(local.path, local.what, local.files, key=key, store=self)

    def problem(self, key: str) -> str | None:
        """The damage of a finished phase that the cloud does not have intact, as far as is known."""
        return super().problem(key) if key not in self.index["phases"] else None

    def _entry(self, key: str) -> Entry:
        """What names an artifact in the cloud."""
        if key not in self._entries:
            try:
                entry = artifacts.read_entry(self.objects, key, self.phase_folder(key))
            except StoreCorrupt:
                self._is_damaged(key)
                raise
            if entry is None:
                self.index["phases"].discard(key)
                raise StoreMissing.of(
                    "KD0910", what=f"phase {key[:12]}", root=self.address, folder=self.phase_folder(key)
                )
            self._entries[key] = entry
        return self._entries[key]

    def _is_damaged(self, key: str) -> None:
        """Forgets what the cloud has of a phase, which is replaced when the phase has been trained again."""
        self._damaged.add(key)
        self._entries.pop(key, None)
        self.index["phases"].discard(key)

    def fetch(self, key: str, again: bool = False) -> Entry:
        """Copies the artifact of phase `key` from the cloud, and returns what names it.

        Parameters
        ----------
        again
            Whether what is here is damaged, and to be replaced; else another process may just have copied it.

        Raises
        ------
        StoreCorrupt
            KD0946 if what the cloud has is damaged.
        StoreMissing
        StoreUnreachable
        """
        entry = self._entry(key)
        try:
            artifacts.pull(self.objects, key, entry, self.phase_folder(key), replace=again)
        except StoreCorrupt:
            self._is_damaged(key)
            raise
        return entry

    # ---- numbers

    def number(self, kind: Numbers, key: str) -> dict[str, Plain] | None:
        """As of any store; where one is missing that the cloud has, all of its kind are copied."""
        value = super().number(kind, key)
        if value is None and key in self.index[kind] and kind not in self._mirrored:
            self._mirrored.add(kind)
            try:
                pull_numbers(self.objects, self, kind, self.index[kind])
            except StoreUnreachable as problem:
                self._offline(problem)
            value = super().number(kind, key)
        return value

    # ---- training

    def begin(self, key: str, watch: bool = False) -> Work:
        """As of any store; the lock is also taken for other machines.

        Where the service cannot be reached, only for this one: at worst a phase is trained twice, and one artifact
        stays.

        Raises
        ------
        StoreLocked
            KD0901 if another process, here or elsewhere, runs it.
        StoreRefused
        """
        work = super().begin(key, watch)
        assert isinstance(work, SharedWork)
        try:
            work.share(self)
            # It may have been finished elsewhere since the index was listed.
            if key not in self._damaged and self.objects.read(artifacts.index_name(key)) is not None:
                self.index["phases"].add(key)
        except StoreUnreachable as problem:
            self._offline(problem)
        except BaseException:
            work.close()
            raise
        return work

    def state(self, key: str) -> State:
        """The state of phase `key`; running also where another machine trains it."""
        state = super().state(key)
        return "running" if state in ("missing", "interrupted") and self.holder(key) is not None else state

    def holder(self, key: str) -> Holder | None:
        """The process, here or elsewhere, that runs phase `key`, as was last seen."""
        here = super().holder(key)
        if here is not None:
            return here
        elsewhere = self.shared.holder_of(key)
        if elsewhere is None and key in self._leased:
            elsewhere = self.shared.look(key)
        return elsewhere.holder if elsewhere is not None else None

    @cached_property
    def _leased(self) -> set[str]:
        """The phases that machines trained when this was first asked."""
        try:
            return {name.split("/")[1] for name in self.objects.listed("leases")}
        except StoreUnreachable as problem:
            self._offline(problem)
            return set()

    def running_step(self, key: str) -> int | None:
        """The step that phase `key` has logged, here or elsewhere."""
        elsewhere = self.shared.holder_of(key)
        return elsewhere.step if elsewhere is not None else super().running_step(key)

    # ---- what is to be pushed

    @property
    def outbox(self) -> list[str]:
        """The keys of phases that are not known to be in the cloud."""
        return [name for name in names_in(self.root / "outbox") if not name.startswith(".")]

    def mark(self, key: str) -> None:
        """Notes that phase `key` is to be pushed once it is finished; before it is, so that no kill can prevent it."""
        make_folder(self.root / "outbox")
        write(self.root / "outbox" / key, b"")

    def push(self, key: str) -> bool:
        """Pushes the artifact of phase `key`; False, with a warning, where that has to wait."""
        try:
            outcome = artifacts.push(self.objects, super().artifact(key), repair=key in self._damaged)
            if outcome == "other":
                self._adopt(key)
        except StoreUnreachable as problem:
            self._offline(problem)
            return False
        except (StoreRefused, StoreUnwritable) as problem:
            self.report(replace(problem.diagnostics[0], severity="warning"))
            return False
        self._damaged.discard(key)
        if self._index is not None:
            self._index["phases"].add(key)
        (self.root / "outbox" / key).unlink(missing_ok=True)
        return True

    def _adopt(self, key: str) -> None:
        """Puts the cloud's artifact in place of this machine's, or the other way round where the cloud's is damaged."""
        self._entries.pop(key, None)
        try:
            self.fetch(key, again=True)
            self.report(diagnostic("KD0949", None, what=f"phase {key[:12]}", by=self._entry(key).by))
        except StoreCorrupt:
            artifacts.push(self.objects, super().artifact(key), repair=True)

    def settle(self) -> Diagnostic | None:
        """Pushes what is to be pushed; a warning of what could not be."""
        left = self._push_outbox()
        if left:
            return diagnostic("KD0947", None, what=counted(left, "result"), cache=self.root, address=self.address)
        with suppress(StoreUnreachable, StoreRefused):  # they can be computed again, and the next run pushes them
            push_numbers(self.objects, self, self.index)
        return None

    def sweep(self) -> list[Path]:
        """As of any store; and what an earlier command could not push is pushed."""
        swept = super().sweep()
        self._push_outbox()
        return swept

    def _push_outbox(self) -> int:
        """Pushes; gives how many artifacts are left."""
        left = 0
        for key in self.outbox:
            if super().has(key):
                with suppress(StoreCorrupt, StoreMissing):  # it is trained again where something needs it
                    left += not self.push(key)
                    continue
            elif super().holder(key) is not None or super().has(key):  # it is just being finished
                continue
            (self.root / "outbox" / key).unlink(missing_ok=True)
        return left


@dataclass(slots=True)
class RemoteArtifact(Artifact):
    """An artifact whose files are copied from the cloud when one is read, also where the local one is damaged."""

    store: RemoteStore = field(kw_only=True)
    entry: Entry | None = None
    """What the cloud has, where nothing intact is here."""

    def file(self, name: str) -> Path:
        """As of any artifact."""
        self._known(name)
        return self._intact(lambda: Artifact.file(self, name))

    def read(self, name: str) -> bytes:
        """As of any artifact; small files are known without copying."""
        self._known(name)
        small = artifacts.small_content(self.entry, name) if self.entry is not None else None
        return small if small is not None else self._intact(lambda: Artifact.read(self, name))

    def verify(self) -> None:
        """As of any artifact."""
        self._intact(lambda: Artifact.verify(self))

    def _intact(self, read: Callable[[], T]) -> T:
        damaged = self.path.is_dir()
        if damaged:
            with suppress(StoreCorrupt):
                return read()
        self.files = self.store.fetch(self.key, again=damaged).files  # which may be of another attempt
        self.entry = None
        self._hashed.clear()
        return read()
