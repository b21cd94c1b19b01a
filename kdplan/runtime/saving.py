"""Checkpoints of a running phase: small ones are written at once, large ones by a thread while training goes on.

The thread writes a copy of the state, so a checkpoint is of one step whatever is trained meanwhile. Training waits for
the disk only where it is due to save again, is asked to stop, or ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from kdplan.graph.held import size_of
from kdplan.ir.dag import AT_ONCE
from kdplan.ir.plan import Plain
from kdplan.runtime.checkpoint import TENSORS, tensor_file
from kdplan.runtime.gpu.copies import Copies, CudaCopies, HostCopies
from kdplan.runtime.parts import is_whole
from kdplan.runtime.space import Patience
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.store.errors import StoreUnwritable
from kdplan.runtime.store.work import Work

BRIEF = 1.0
"""Seconds: an epoch that ends sooner after a checkpoint than this does not get one of its own."""
RARE = 100
"""Nor one that ends sooner than so many times what the last checkpoint cost: so they take at most 1% of the time."""
EXPECTED = 3e-9
"""Seconds that the first checkpoint is expected to cost for each byte of weights: their copy, hash and file, and those
of the optimizer's state."""


@dataclass
class _Pending:
    """A checkpoint that is being written."""

    write: Callable[[], None]
    done: Callable[[], None]
    future: Future[float]
    """Seconds of the processor that it took."""


class Saving:
    """Writes the checkpoints of one phase; a context within which the phase trains.

    Examples
    --------
    >>> import tempfile; from kdplan.runtime.store import Store
    >>> store = Store(tempfile.mkdtemp())
    >>> with store.begin("k1") as work:
    ...     with Saving(work, Patience()) as saving:
    ...         saving.save(3, {"w": torch.ones(2)}, {"epoch": 1}, lambda: print("saved"))
    ...     work.latest_checkpoint().step
    saved
    3
    """

    def __init__(self, work: Work, patience: Patience, device: torch.device | None = None) -> None:
        self.work, self.patience = work, patience
        self.gpu = device is not None and device.type == "cuda"
        self.copies: Copies = CudaCopies(device) if device is not None and self.gpu else HostCopies()
        self.cost = 0.0
        """Seconds that the last checkpoint took from training: its wait, and what the thread computed meanwhile."""
        self._threads: ThreadPoolExecutor | None = None
        self._pending: _Pending | None = None

    def expect(self, weights: Iterable[Tensor]) -> None:
        """Takes a guess at what a checkpoint costs, before the first one is written."""
        self.cost = EXPECTED * size_of(weights)

    def worth(self, since: float) -> bool:
        """Whether an epoch that ends `since` seconds after the last checkpoint gets one of its own."""
        return self._pending is None and since >= max(BRIEF, RARE * self.cost)

    def save(
        self,
        step: int,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Plain],
        done: Callable[[], None],
        at_once: bool = False,
        files: Mapping[str, Content] | None = None,
        began: float | None = None,
    ) -> None:
        """Saves a state, and calls `done` when it is on the disk: now, or within a later call of this object.

        Parameters
        ----------
        step
            Steps that are done.
        tensors, state
            What resuming needs. Both may change as soon as this returns.
        at_once
            Whether to wait until it is on the disk.
        files
            More files of the checkpoint, which are written at once: parts of other tensors.
        began
            When training began to wait for it, in seconds of `time.monotonic`; now, if it is not given.

        Raises
        ------
        StoreUnwritable
            If the disk takes no more; for a checkpoint that a thread writes, from a later call.
        """
        began = time.monotonic() if began is None else began
        self.collect(wait=True)
        at_once |= bool(files)
        tensors = {name: t for name, t in tensors.items() if not files or is_whole(t)}
        # A GPU is never waited for: the thread does that.
        at_once |= not self.gpu and size_of(tensors.values()) <= AT_ONCE
        ready: Callable[[], None] | None = None
        content: Content
        if at_once:
            content = tensor_file(tensors)
        else:
            held, ready = self.copies.of(tensors)
            content = lambda path: tensor_file(held)(path)  # noqa: E731
        contents = {TENSORS: content, **(files or {})}
        write_files = self.patience.write(lambda: self.work.checkpoint_writer(step, contents, state))

        def write() -> None:
            if ready is not None:
                ready()
            write_files()

        if at_once:
            self.patience.write(write)
            done()
        else:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, "checkpoint")
            self._pending = _Pending(write, done, self._threads.submit(_timed, write))
        self.cost = time.monotonic() - began

    def collect(self, wait: bool = False) -> None:
        """Ends a checkpoint that the thread has written, or failed to; with `wait`, as soon as it has.

        Raises
        ------
        StoreUnwritable
            If the disk takes no more, and the run does not wait for space.
        """
        pending = self._pending
        if pending is None or not (wait or pending.future.done()):
            return
        self._pending = None
        try:
            self.cost += pending.future.result()
        except StoreUnwritable:
            self.patience.write(pending.write)
        pending.done()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the thread. Where training failed, that is the error to raise, not one of its checkpoint."""
        try:
            if kind is None:
                self.collect(wait=True)
            elif self._pending is not None:
                with suppress(StoreUnwritable):
                    self._pending.future.result()
                    self._pending.done()
        finally:
            if self._threads is not None:
                self._threads.shutdown()
            self._threads, self._pending = None, None
            self.copies.forget()


def _timed(write: Callable[[], None]) -> float:
    """Seconds of the processor that `write` takes of this thread."""
    began = time.thread_time()
    write()
    return time.thread_time() - began
