"""What the training loop is given: one phase, put together by `phase.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Recipe
from kdplan.runtime.division import Division
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.frozen_values import StoredValues
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.space import Patience
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Streams


@dataclass
class Job:
    """One phase, ready to be trained."""

    name: str
    phase_graph: PhaseGraph
    recipes: list[Recipe]
    streams: Streams
    work: Work
    device: torch.device
    seed: int
    stored: StoredValues | None = None
    """The frozen graph's outputs, where they are read from the store."""
    validate: Callable[[], dict[str, float]] | None = None
    """Numbers of the networks as they stand, after every epoch; the first one chooses the best snapshot."""
    larger_is_better: bool = True
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    interrupt: Interrupt = field(default_factory=Interrupt)
    events: Events = field(default_factory=NoEvents)
    patience: Patience = field(default_factory=Patience)
    """What is done when the store's disk is full."""
    span: Span | None = None
    """Where the loss stands in the plan."""
    progress_seconds: float = 0.5
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those that train the phase."""
    division: Division | None = None
    """Which samples of a step it computes, where they sum gradients in any order."""
    copies: list[nn.Module] | None = None
    """Of the trained networks, for what is validated and written, where processes have parts of them only."""
