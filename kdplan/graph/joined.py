"""A phase as one graph, as the builder leaves it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import fx, nn

from kdplan.graph.application import Application
from kdplan.graph.fake import FakeContext
from kdplan.graph.guards import ASK
from kdplan.graph.replay import Replay, context_for, example_inputs


@dataclass
class JoinedPhase:
    """One phase as one graph.

    Attributes
    ----------
    graph_module
        Called with the inputs by name; returns a dict. Sub-modules: `nets.<name>` and, for adapters, `splices.<name>`
        (an old word that checkpoints have), which are the registered modules themselves.
    inputs
        Placeholder names, in order.
    networks, adapters
        The registered modules by the name that was given.
    training
        The mode that each sub-module must be in when the graph runs.
    guards
        What Python control flow in the networks asked: node name, question, answer.
    applications
        The networks' calls that are graphs here.
    """

    graph_module: fx.GraphModule
    inputs: tuple[str, ...]
    networks: dict[str, nn.Module]
    adapters: dict[str, nn.Module]
    training: dict[str, bool]
    guards: list[tuple[str, str, object]]
    context: FakeContext
    applications: list[Application] = field(default_factory=list)

    def holds_at(self, batch: int) -> bool:
        """Whether the graph is also right for another batch size: its control flow gets the same answers.

        False is cautious: a network that asks for the batch size itself (`len(x)`) gets another number.
        """
        if not self.guards:
            return True
        gm = self.graph_module
        context = context_for(gm, ())
        replay = Replay(gm, context, keep=[name for name, _, _ in self.guards])
        try:
            with torch.no_grad():
                replay.run(*example_inputs(gm, context, batch))
        except (RuntimeError, ValueError):  # an operator refuses such sizes
            return False
        return all(ASK[kind](replay.seen[name]) == answer for name, kind, answer in self.guards)

    def set_modes(self) -> None:
        """Put every sub-module in the mode that it was traced in."""
        for path, mode in self.training.items():
            self.graph_module.get_submodule(path).training = mode
