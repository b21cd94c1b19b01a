"""The first step of a stack, compared with the steps of its members alone; and how long each takes.

So nothing is computed otherwise in a stack without a word: where a rule of torch.func gives other numbers than the
graph, the members train alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kdplan.graph.stack import NotStackable
from kdplan.runtime.first_batch import FULL, SMALLEST, Differs
from kdplan.runtime.loop import Training
from kdplan.runtime.recovery import State
from kdplan.runtime.stacked import Members, Stack, is_full
from kdplan.runtime.streams import Batch

ROUNDS = 3
"""Steps that are timed each way; the fastest of them counts."""


@dataclass(frozen=True)
class Times:
    """Seconds of a step of all members, one after another and as one."""

    alone: float
    stacked: float

    @property
    def ratio(self) -> float:
        """The time of a stack's step in parts of that of its members alone."""
        return self.stacked / self.alone


def try_out(stack: Stack, timed: bool) -> Times | None:
    """Do a step both ways, compare, and put all back; with `timed`, some more.

    Raises
    ------
    NotStackable
        Where a stack gives other numbers, or torch.func cannot compute it.
    """
    at = min(t.step for t in stack.members.values())
    active = {row: t for row, t in stack.members.items() if t.step == at}
    batches = _first_batches(active, stack.form.shared)
    kept = {row: _Kept(training) for row, training in active.items()}
    try:
        expected = {row: _alone(training, batches[row]) for row, training in active.items()}
        for row, one in kept.items():
            one.put_back()
            stack.release(row)
        try:
            stack.train_step(active, batches)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as problem:
            raise NotStackable(f"torch.func cannot compute it: {_first_line(problem)}") from problem
        stack.share_gradients(active)
        for row, training in active.items():
            _compare(expected[row], _left(training))
        return _times(stack, active, batches) if timed else None
    finally:
        for row, one in kept.items():
            stack.release(row)
            one.put_back()


def _first_batches(active: Members, shared: bool) -> dict[int, Batch]:
    """The first batch of the present epoch of each member."""
    batches: dict[int, Batch] = {}
    for row, training in active.items():
        if shared and batches:
            batches[row] = next(iter(batches.values()))
            continue
        epochs = training.job.streams.epoch(training.step // training.per_epoch, 0)
        batches[row] = next(epochs)
        if not shared and not is_full(training, batches[row]):
            raise NotStackable("its epochs have no full batch")
    return batches


class _Kept:
    """The state of a training, to be put back."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.state = _copy(training.checkpoint())
        self.seen, self.skipped = training.seen, training.recovery.skipped

    def put_back(self) -> None:
        """Load it; the training's own tensors stay."""
        training = self.training
        training.load(*_copy(self.state))
        training.seen, training.recovery.skipped = self.seen, self.skipped
        for parameter in training.job.phase_graph.named_trainable().values():
            parameter.grad = None


def _copy(state: State) -> State:
    tensors, plain = state
    return {n: t.detach().clone() for n, t in tensors.items()}, plain


def _alone(training: Training, batch: Batch) -> dict[str, dict[str, Tensor]]:
    try:
        training.train_step(batch)
    except Differs as problem:
        raise NotStackable(f"networks are called whole: {_first_line(problem)}") from problem
    return _left(training)


def _left(training: Training) -> dict[str, dict[str, Tensor]]:
    """What a step leaves: gradients, buffers, and the sums of the loss and its terms."""
    trained = training.job.phase_graph.named_trainable()
    gradients = {n: p.grad.clone() for n, p in trained.items() if p.grad is not None}
    buffers = {n: t.detach().clone() for n, t in training.job.phase_graph.state().items() if n not in trained}
    return {"gradients": gradients, "buffers": buffers, "loss": {"": training.watch.sums.clone()}}


def _compare(alone: Mapping[str, dict[str, Tensor]], stacked: Mapping[str, dict[str, Tensor]]) -> None:
    """Raise `NotStackable` where a member's step left something else in the stack."""
    for kind, expected in alone.items():
        got = stacked[kind]
        sizes = [float(t.abs().max()) for t in expected.values() if t.numel() and t.is_floating_point()]
        floor = SMALLEST * max(sizes, default=0.0) if kind == "gradients" else 0.0
        differing = [n for n in expected.keys() | got.keys() if n not in got or n not in expected]
        for name, tensor in expected.items():
            if name in got and not _close(tensor, got[name], floor):
                differing.append(name)
        if differing:
            what = f"{kind} of {sorted(differing)[0]}" if kind != "loss" else "the loss"
            raise NotStackable(f"a stack gives other numbers: {what}")


def _close(one: Tensor, other: Tensor, floor: float) -> bool:
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    size = max(float(one.abs().nan_to_num(0, 0, 0).max()) if one.numel() else 0.0, floor)
    return torch.allclose(one, other, rtol=0, atol=FULL * size, equal_nan=True)


def _times(stack: Stack, active: Members, batches: Mapping[int, Batch]) -> Times:
    alone, together = [], []
    for _ in range(ROUNDS):
        start = _now(stack.device)
        for row, training in active.items():
            stack.release(row)
            training.train_step(batches[row])
        middle = _now(stack.device)
        stack.train_step(active, batches)
        alone.append(middle - start)
        together.append(_now(stack.device) - middle)
    return Times(min(alone), min(together))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _first_line(problem: BaseException) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0].rstrip(".")[:160]
