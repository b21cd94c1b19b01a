"""A phase that is being run: its lock, its metrics and checkpoints, and the commit that makes it an artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
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
    sweep,
    write,
)
from kdplan.runtime.store.errors import StoreCorrupt, writing
from kdplan.runtime.store.lock import FILES, Lock
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.store.sealed import opened_line, parsed, sealed_line, write_sealed

RECORD_HEAD = ("epoch", "step", "seconds")
"""What every line of `metrics.jsonl` has besides what was measured."""

METRICS = "metrics.jsonl"
ABOUT = "phase.json"

KEEP = 2
"""Checkpoints kept: the newest, and one before it should the newest turn out damaged."""


class Work:
    """The folder `work/<key>/`, locked from `Store.begin` until `commit` or `close`.

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

    def __init__(self, folder: Path, phases: Path, key: str) -> None:
        self.folder = folder
        self.key = key
        self.what = f"phase {key[:12]}"
        self.notices: list[Diagnostic] = []
        """Warnings about damage that was found and repaired, for the run to show."""
        self._phases = phases
        self._log: int | None = None
        self._lock = Lock(folder, self.what)
        make_folder(phases)
        self._lock.acquire()
        self._sweep()

    def _sweep(self) -> None:
        sweep(self.folder)
        sweep(self.checkpoints)
        for leftover in self._phases.glob(f".old-*-{self.key}"):
            clear(leftover)

    def describe(self, about: dict[str, Plain]) -> None:
        """Notes which phase this is, for whoever looks at an attempt that was not finished."""
        write_sealed(self.folder / ABOUT, about)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics_file(self) -> Path:
        """The running phase's metrics, one JSON object a line."""
        return self.folder / METRICS

    # ---- metrics

    def log(self, record: Mapping[str, Plain]) -> None:
        """Appends one line to metrics.jsonl. A kill may cut the last line; `rewind` drops it then."""
        with writing(self.metrics_file):
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
        assert self._lock.held, "the phase's lock is not held"
        assert "state.json" not in tensors
        make_folder(self.checkpoints)
        if self._log is not None:
            with writing(self.metrics_file):
                os.fsync(self._log)
        metrics = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        files = {**tensors, "state.json": json_bytes(dict(state)), METRICS: metrics}
        target = self.checkpoints / f"step-{step}"

        def write() -> None:
            assert self._lock.held, "the phase's lock is not held"
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
        assert self._lock.held, "the phase's lock is not held"
        self._close_log()
        content: dict[str, Content] = {n: _content(c) for n, c in files.items()}
        if METRICS not in content:
            content[METRICS] = self.metrics_file.read_bytes() if self.metrics_file.exists() else b""
        target = self._phases / self.key
        _publish(temporary(self.folder / self.key), target, content)
        artifact = Artifact(target, self.what, manifest.read(target, self.what), key=self.key)
        self.discard()
        return artifact

    def discard(self) -> None:
        """Removes all files of the running phase, and gives the lock back."""
        self._close_log()
        # The lock goes last.
        for entry in self.folder.iterdir():
            if entry.name not in FILES:
                discard(entry)
        self._lock.remove()
        try:
            self.folder.rmdir()
        except OSError:
            # Someone has begun the phase anew in the meantime; the folder is theirs.
            return
        flush_folder(self.folder.parent)

    def close(self) -> None:
        """Gives the lock back; checkpoints and metrics stay for the next run."""
        try:
            self._close_log()
            if self._lock.held and {e.name for e in self.folder.iterdir()} <= FILES | {ABOUT}:
                self.discard()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _content(value: Content | Mapping[str, Plain] | list[Plain]) -> Content:
    return value if isinstance(value, bytes) or callable(value) else json_bytes(value)


def _publish(new: Path, target: Path, files: Mapping[str, Content]) -> None:
    """Builds a folder under the name `new`, then gives it the name `target`; of a failure nothing is left."""
    try:
        manifest.build(new, files)
        put_folder(new, target)
    except BaseException:
        clear(new)
        raise


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


def logged_step(folder: Path) -> int | None:
    """The step of the last line that an attempt logged; None where it has logged none."""
    records = read_metrics(folder / METRICS)
    return records[-1].get("step") if records else None


def resume_step(folder: Path) -> int | None:
    """The step of the newest complete checkpoint in an attempt's folder. Hashes are not compared."""
    for step, checkpoint in checkpoint_folders(folder / "checkpoints"):
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
