"""The policies of `on_nan`: leave a step out, or go back to the last end of an epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

from kdplan.diagnostics.report import PlanError
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Item, Plain
from kdplan.ir.seed import fold
from kdplan.runtime.checkpoint import below, prefixed
from kdplan.runtime.finite import all_finite

NOT_FINITE = frozenset({"KD0820", "KD0826"})
"""Errors that `rollback` takes: a loss, or a weight."""

State = tuple[dict[str, Tensor], dict[str, Plain]]
"""Tensors by name, and plain values."""


class Recovery:
    """What a phase does about values that are not finite, and how often it did so.

    Parameters
    ----------
    policy
        `stop`, `skip`, or `rollback` with its `times`.
    seed
        The phase's.

    Examples
    --------
    >>> recovery = Recovery(Item("rollback", {"times": 1}), seed=3)
    >>> recovery.seed, recovery.left
    (3, 1)
    """

    def __init__(self, policy: Item, seed: int) -> None:
        self.skips = policy.name == "skip"
        self.times = int(policy.arguments.get("times", 3)) if policy.name == "rollback" else 0
        self.skipped = 0
        """Steps of the running epoch that were left out."""
        self.rollbacks = 0
        self._seed = seed
        self._back: State | None = None

    @property
    def left(self) -> int:
        """How often the phase may still go back."""
        return self.times - self.rollbacks

    @property
    def seed(self) -> int:
        """What orders and random numbers follow from: another number after each rollback."""
        return fold(self._seed, "rollback", self.rollbacks) if self.rollbacks else self._seed

    def remember(self, state: State) -> None:
        """Keep a copy of the state to go back to; only `rollback` needs one."""
        if self.times:
            tensors, plain = state
            self._back = {n: t.detach().to("cpu", copy=True) for n, t in tensors.items()}, plain

    def go_back(self, problem: PlanError) -> State | None:
        """The state to go on from; None where the policy or its number of times does not allow it."""
        if self._back is None or self.left <= 0 or {d.code for d in problem.diagnostics} - NOT_FINITE:
            return None
        return self.back()

    def back(self) -> State:
        """The state of the last end of an epoch, to which the phase goes back now."""
        assert self._back is not None
        self.rollbacks += 1
        return self._back

    def record(self) -> dict[str, Plain]:
        """What an epoch's line of metrics says about it."""
        record: dict[str, Plain] = {"skipped": self.skipped} if self.skips else {}
        if self.times:
            record["rollbacks"] = self.rollbacks
        return record

    def state(self) -> State:
        """Tensors and plain values for a checkpoint; nothing for `stop`."""
        if self._back is not None:
            tensors, plain = self._back
            return prefixed("back", tensors), {"rollbacks": self.rollbacks, "back": plain}
        return {}, {"skipped": self.skipped} if self.skips else {}

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Plain]) -> None:
        """The inverse of `state`."""
        self.skipped, self.rollbacks = plain.get("skipped", 0), plain.get("rollbacks", 0)
        if "back" in plain:
            self._back = below("back", dict(tensors)), plain["back"]


def untouched(phase_graph: PhaseGraph) -> dict[str, Tensor]:
    """The phase's state with copies of what a forward pass may change: all but the trained parameters."""
    trained = phase_graph.named_trainable()
    return {n: t if n in trained else t.clone() for n, t in phase_graph.state().items()}


def finite_step(losses: Iterable[Mapping[str, Tensor]], parameters: Iterable[Tensor], scaled: bool) -> bool:
    """Whether all losses and gradients are finite; waits for the device.

    Parameters
    ----------
    losses
        The loss and the logged terms of each part of a batch.
    parameters
        Their gradients are looked at.
    scaled
        Whether a scaler of gradients looks at them itself, as with fp16.
    """
    values = [v.detach().float().mean() for terms in losses for v in terms.values()]
    gradients = [] if scaled else [p.grad for p in parameters if p.grad is not None]
    local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]  # a piece, with --fully-shard
    return all_finite([*values, *local])
