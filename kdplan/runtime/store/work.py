"""A phase that is being run: its lock, its metrics and checkpoints, and the commit that makes it an artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.ir.plan import Plain
from kdplan.runtime.store import manifest
from kdplan.runtime.store.artifact import Artifact, Checkpoint
from kdplan.runtime.store.atomic import (
    MODE,
    Content,
    clear,
    flush_folder,
    json_bytes,
    make_folder,
    names_in,
    put_folder,
    put_new_folder,
    sweep,
    write,
)
from kdplan.runtime.store.attempts import (
    ATTEMPTS,
    CHECKPOINTS,
    METRICS,
    SNAPSHOTS,
    checkpoint_folders,
    discard,
    gather,
    read_metrics,
)
from kdplan.runtime.store.errors import StoreCorrupt, StoreError, StoreUnwritable, writing
from kdplan.runtime.store.lock import Lock, is_lock_file
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import sealed_line, write_sealed

RECORD_HEAD = ("epoch", "step", "seconds")
"""What every line of `metrics.jsonl` has besides what was measured."""

ABOUT = "phase.json"

KEEP = 2
"""Checkpoints kept: the newest, and one before it should the newest turn out damaged."""


class Work:
    """The folder `work/<key>/`, locked from `Store.begin` until `commit` or `close`.

    Every method that writes raises `StoreLost` (KD0931) where this process has lost its lease meanwhile.

    Examples
    --------
    >>> import tempfile; from kdplan.runtime.store import Store
    >>> store = Store(tempfile.mkdtemp())
    >>> with store.begin("k1") as work:
    ...     work.save_checkpoint(10, {"model.safetensors": b"..."}, {"epoch": 1})
    ...     work.log({"step": 10, "loss": 0.5})
    ...     artifact = work.commit({"weights-0-last.safetensors": b"...", "summary.json": {"loss": 0.5}})
    >>> artifact.summary
    {'loss': 0.5}
    """

    def __init__(self, folder: Path, phases: Path, key: str, lock: Lock) -> None:
        self.folder = folder
        self.key = key
        self.what = f"phase {key[:12]}"
        self.notices: list[Diagnostic] = []
        """Warnings about damage that was found and repaired, for the run to show."""
        self._phases = phases
        self._log: int | None = None
        self._lock = lock
        self._is_new = not (phases / key).exists()
        self.attempt = folder / ATTEMPTS / lock.claim if lock.claim else folder
        """Where this process keeps its checkpoints, snapshots and metrics."""
        try:
            make_folder(phases)
            self._sweep()
        except BaseException:
            lock.release()
            raise

    def _sweep(self) -> None:
        sweep(self.folder)
        make_folder(self.attempt)
        gather(self.folder, self.attempt)
        sweep(self.checkpoints)
        for leftover in self._phases.glob(f".old-*-{self.key}"):
            clear(leftover)

    def describe(self, about: dict[str, Plain]) -> None:
        """Notes which phase this is, for whoever looks at an attempt that was not finished."""
        with self._holding():
            write_sealed(self.folder / ABOUT, about)

    def confirm(self) -> None:
        """Raises `StoreLost` unless this process still holds the phase."""
        self._lock.confirm()

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Inside, the phase is this process's; where it is not, other refusals are a consequence of that."""
        self.confirm()
        try:
            yield
        except (OSError, StoreUnwritable):
            self.confirm()
            raise

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.attempt / CHECKPOINTS

    @property
    def snapshots(self) -> Path:
        """The folder of the weights of certain epochs."""
        return self.attempt / SNAPSHOTS

    @property
    def metrics_file(self) -> Path:
        """The running phase's metrics, one JSON object a line."""
        return self.attempt / METRICS

    # ---- metrics

    def log(self, record: Mapping[str, Plain]) -> None:
        """Appends one line to metrics.jsonl. A kill may cut the last line; `rewind` drops it then."""
        with self._holding(), writing(self.metrics_file):
            if self._log is None:
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
                self._log = os.open(self.metrics_file, flags, MODE)
            before = os.fstat(self._log).st_size
            left = memoryview(sealed_line(dict(record)).encode())
            try:
                while left:
                    left = left[os.write(self._log, left) :]
            except OSError:
                os.ftruncate(self._log, before)  # a line is written again from its begin
                raise

    def metrics(self) -> list[dict[str, Plain]]:
        """The lines so far; a cut last line is left out."""
        return read_metrics(self.metrics_file)

    def rewind(self, checkpoint: Checkpoint | None) -> None:
        """Sets the metrics to those of a checkpoint, from which training goes on; None drops all."""
        self._close_log()
        if checkpoint is None:
            content = b""
        elif METRICS in checkpoint.files:
            content = checkpoint.read(METRICS)
        else:  # of 0.1.0, whose checkpoints hold no metrics and whose lines no hashes
            records = read_metrics(self.metrics_file, checked=False)
            content = "".join(sealed_line(r) for r in records if r.get("step", 0) <= checkpoint.step).encode()
        with self._holding():
            write(self.metrics_file, content)

    def _close_log(self) -> None:
        if self._log is not None:
            log, self._log = self._log, None
            try:
                with writing(self.metrics_file):
                    os.fsync(log)
            finally:
                os.close(log)

    # ---- checkpoints

    def save_checkpoint(self, step: int, tensors: Mapping[str, Content], state: Mapping[str, Plain]) -> None:
        """What `checkpoint_writer` gives, done at once."""
        self.checkpoint_writer(step, tensors, state)()

    def checkpoint_writer(
        self, step: int, tensors: Mapping[str, Content], state: Mapping[str, Plain]
    ) -> Callable[[], None]:
        """A function that saves a state from which the phase can resume, with its metrics as they are now.

        A thread may call it, and it may be called again where it failed. The newest two checkpoints are kept.

        Parameters
        ----------
        step
            Steps that are done.
        tensors
            File name -> its content, or a function that writes it to a path: safetensors, never a pickle.
        state
            Plain values, saved as JSON.

        Raises
        ------
        StoreUnwritable
            If the disk takes no more; earlier checkpoints are intact then.
        """
        assert "state.json" not in tensors
        with self._holding():
            make_folder(self.checkpoints)
            if self._log is not None:
                with writing(self.metrics_file):
                    os.fsync(self._log)
            metrics = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        files = {**tensors, "state.json": json_bytes(dict(state)), METRICS: metrics}
        target = self.checkpoints / f"step-{step}"

        def write() -> None:
            with self._holding():
                _publish(temporary(target), target, files)
                for _, old in checkpoint_folders(self.checkpoints)[KEEP:]:
                    discard(old)

        return write

    def latest_checkpoint(self, problem_of: Callable[[Checkpoint], str | None] | None = None) -> Checkpoint | None:
        """The newest intact checkpoint; damaged ones are removed, and `notices` reports them.

        Parameters
        ----------
        problem_of
            What else is wrong with a checkpoint: files that it names and that are not in its folder.
        """
        for step, folder in checkpoint_folders(self.checkpoints):
            what = f"checkpoint {folder.name} of {self.what}"
            try:
                checkpoint = Checkpoint(folder, what, manifest.read(folder, what), step=step)
                checkpoint.verify()
                reason = problem_of(checkpoint) if problem_of is not None else None
                if reason is None:
                    return checkpoint
            except StoreCorrupt as problem:
                reason = problem.diagnostics[0].message
            self.notices.append(diagnostic("KD0908", None, what=what, reason=reason, path=folder))
            discard(folder)
        return None

    # ---- the end

    def commit(self, files: Mapping[str, Content | Mapping[str, Plain] | list[Plain]]) -> Artifact:
        """Makes the finished phase an artifact, whole or not at all, and removes this folder and its lock.

        Parameters
        ----------
        files
            File name -> bytes, a function that writes the file to a path, or a value to be saved as JSON.
            `metrics.jsonl` is added from the logged lines, unless it is given.
        """
        self.confirm()
        self._close_log()
        content: dict[str, Content] = {n: _content(c) for n, c in files.items()}
        if METRICS not in content:
            content[METRICS] = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        target = self._phases / self.key
        with self._holding():
            # Where another process can be of the same opinion, an artifact that is new is never replaced.
            put_new = self._is_new and self.attempt != self.folder
            _publish(temporary(self.attempt / self.key), target, content, self.confirm, put_new)
        artifact = Artifact(target, self.what, manifest.read(target, self.what), key=self.key)
        self.discard()
        return artifact

    def discard(self) -> None:
        """Removes all files of the running phase, and gives the lock back."""
        self._close_log()
        if self.attempt != self.folder:
            # Only what is certainly this process's.
            if self.attempt.exists():
                discard(self.attempt)
            mine = [self.folder / ABOUT] if self._is_held() else []
        else:
            mine = [entry for entry in self.folder.iterdir() if not is_lock_file(entry.name)]
        for entry in mine:
            if entry.exists():
                discard(entry)
        # The lock goes last.
        self._lock.remove()
        try:
            if self.attempt != self.folder:
                self.attempt.parent.rmdir()
            self.folder.rmdir()
        except OSError:
            # Someone has begun the phase anew in the meantime; the folder is theirs.
            return
        flush_folder(self.folder.parent)

    def _is_held(self) -> bool:
        try:
            self.confirm()
        except StoreError:
            return False
        return True

    def close(self) -> None:
        """Gives the lock back; checkpoints and metrics stay for the next run."""
        try:
            self._close_log()
            if self._lock.held and self._is_held() and self._has_nothing():
                self.discard()
        finally:
            self._lock.release()

    def _has_nothing(self) -> bool:
        ours = [ABOUT] if self.attempt == self.folder else [ABOUT, ATTEMPTS]
        left = [e for e in names_in(self.folder) if e not in ours and not is_lock_file(e)]
        return not left and (self.attempt == self.folder or not names_in(self.attempt))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _content(value: Content | Mapping[str, Plain] | list[Plain]) -> Content:
    return value if isinstance(value, bytes) or callable(value) else json_bytes(value)


def _publish(
    new: Path,
    target: Path,
    files: Mapping[str, Content],
    before: Callable[[], None] = lambda: None,
    put_new: bool = False,
) -> None:
    """Builds a folder under the name `new`, then gives it the name `target`; of a failure nothing is left.

    `before` is called between the two. With `put_new`, a folder `target` that is there by then stays.
    """
    try:
        manifest.build(new, files)
        before()
        if not put_new:
            put_folder(new, target)
        elif not put_new_folder(new, target):
            clear(new)
    except BaseException:
        clear(new)
        raise
