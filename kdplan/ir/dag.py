"""What the planner says of each phase: its key, what will be done about it, why, and at what cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdplan.ir.expr import Location, location

Action = Literal["run", "cached", "extend", "resume", "rerun", "blocked"]

SYMBOLS: dict[Action, str] = {
    "run": "+",
    "cached": "=",
    "extend": "~",
    "resume": ">>",
    "rerun": "-/+",
    "blocked": "!",
}


@dataclass(slots=True)
class Component:
    """One part of a phase's content: `path` such as `loss/1/0` or `recipe/0/epochs`, and its value as text."""

    path: str
    value: str
    span: Location = location()
    """Where it stands in the plan file."""
    at: str = ""
    """The same as `file:line:column`, kept in the store."""


@dataclass(slots=True)
class PhaseKey:
    """The content hash of a phase, and the parts that it was made from."""

    key: str
    components: list[Component]
    """The phase's own content; what it reads from other phases stands in `reads`."""
    reads: dict[str, str]
    """Phase name -> that phase's key, for every phase whose weights this one reads."""
    details: list[Component] = field(default_factory=list)
    """What the hashes among the components are made of, below their paths: `moves/0/width`. No part of the key."""


CODE_IN = "in "
"""What the last part of the path of a detail begins with that is a file of the user's code."""


@dataclass(slots=True)
class Reason:
    """Why an action: `kind` is from a closed list, `root` false where it only follows from another phase's reason."""

    kind: Literal[
        "new", "changed", "upstream", "missing", "corrupt", "interrupted", "longer", "complete", "needed", "unselected"
    ]
    text: str
    root: bool = True
    span: Location = location()
    at: str = ""
    """`file:line:column` of the changed text."""
    before: str | None = None
    after: str | None = None


AT_ONCE = 4_000_000
"""Bytes of a phase's state up to which a checkpoint is written at once: a copy and a thread would spare nothing."""


@dataclass(slots=True)
class Cost:
    """What a phase takes, predicted before it runs. Bytes, floating-point operations (2 a multiply-add), seconds."""

    parameters: int
    trainable: int
    flops_step: int
    steps: int
    activation_bytes: int
    weight_bytes: int
    disk_bytes: int
    """What the finished phase takes in the store: weights of each snapshot, and the last state."""
    seconds: float | None = None
    """None while no speed was measured on this machine."""
    share: dict[str, float] = field(default_factory=dict)
    """Network -> the share of its forward FLOPs that is left after pruning."""
    lasting: list[str] = field(default_factory=list)
    """What was put into a network for training and stays in it when it is exported, each as a line."""
    bridges: list[str] = field(default_factory=list)
    """What adapters and resizing join signals of different shapes; they are in no network and end with the phase."""
    stored: list[str] = field(default_factory=list)
    """What frozen networks give that is computed once and kept, with its size; no part of `flops_step`."""
    stored_bytes: int = 0
    last_state_bytes: int = 0
    """The part of `disk_bytes` that only a longer run of the phase reads; 0 where it could not be longer."""
    whole: list[str] = field(default_factory=list)
    """Parts of networks that are called whole, since no graph holds what they do, each with the reason."""
    copy_bytes: int = 0
    """Of the state, in the host's memory: what checkpoints are written from, and what `rollback` goes back to."""
    shard_bytes: int | None = None
    """`activation_bytes` is for one process; this is for as many processes as shards, where it differs."""

    def activations_on(self, ranks: int, shards: int) -> int:
        """Bytes of activations on each of some processes: by the number of shards that it computes at once.

        >>> cost = Cost(1, 1, 1, 1, activation_bytes=900, weight_bytes=0, disk_bytes=0, shard_bytes=300)
        >>> [cost.activations_on(ranks, 4) for ranks in (1, 2, 4)]
        [900, 500, 300]
        """
        if self.shard_bytes is None or shards == 1:
            return self.activation_bytes
        more = self.activation_bytes - self.shard_bytes
        return self.shard_bytes + more * (shards // ranks - 1) // (shards - 1)

    @property
    def step_bytes(self) -> int:
        """Bytes of the device's memory that a step takes: activations, weights, gradients, the optimizer's state."""
        return self.activation_bytes + self.weight_bytes

    @property
    def process_bytes(self) -> int:
        """Bytes of memory that training takes where the device has the host's memory."""
        return self.step_bytes + self.copy_bytes


@dataclass(slots=True)
class Planned:
    """One phase of the DAG with all that is known before it runs."""

    name: str
    key: str
    action: Action
    reasons: list[Reason]
    needs: list[str]
    """Names of the phases whose weights it reads."""
    resume_step: int | None = None
    extends: str | None = None
    """Key of the shorter phase that this one goes on from."""
    same_as: str | None = None
    """An earlier phase of this plan with the same key: it is trained once."""
    cost: Cost | None = None
