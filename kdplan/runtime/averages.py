"""Moving averages of weights: the snapshot `ema`, and EMA copies of networks that a phase trains."""

from __future__ import annotations

import torch
from torch import Tensor

from kdplan.graph.phase_graph import EmaCopy, PhaseGraph
from kdplan.nn.extra_state import is_extra, path_of, set_extra
from kdplan.nn.optim import WeightAverage


class Averages:
    """The averages of one phase, updated after every step.

    Parameters
    ----------
    phase_graph : PhaseGraph
        Its `networks` are averaged; its `ema_copies` are updated.
    decay : float or None
        None leaves the networks' own averages out.
    """

    def __init__(self, phase_graph: PhaseGraph, decay: float | None) -> None:
        self.ema_copies = phase_graph.ema_copies
        self.slots: list[WeightAverage] = []
        if decay is not None:
            by_module = {id(n): WeightAverage(n, decay) for n in phase_graph.networks}
            self.slots = [by_module[id(n)] for n in phase_graph.networks]

    def update(self) -> None:
        """Takes in the weights of one more step. Call it after every step."""
        for average in {id(a): a for a in self.slots}.values():
            average.update()
        for ema_copy in self.ema_copies:
            update_ema_copy(ema_copy)

    def weights(self, slot: int) -> dict[str, Tensor]:
        """The averaged state of the network of trainee `slot`."""
        return self.slots[slot].state_dict()

    def state(self) -> tuple[dict[str, Tensor], list[int]]:
        """Tensors and plain values for a checkpoint. EMA copies are modules of the graph, which saves them."""
        tensors = {f"{slot}/{n}": t for slot, a in enumerate(self.slots) for n, t in a.state_dict().items()}
        return tensors, [a.updates for a in self.slots]

    def load_state(self, tensors: dict[str, Tensor], updates: list[int]) -> None:
        """The inverse of `state`."""
        for slot, average in enumerate(self.slots):
            average.load_state_dict({n: tensors[f"{slot}/{n}"] for n in average.state_dict()}, updates[slot])


@torch.no_grad()
def update_ema_copy(ema_copy: EmaCopy) -> None:
    """One step of an EMA copy: θ ← decay · θ + (1 − decay) · θ_source. Counters are copied."""
    source = ema_copy.source.state_dict()
    mine = {id(t): (t.detach(), source[name]) for name, t in ema_copy.module.state_dict(keep_vars=True).items()
            if not is_extra(name)}  # fmt: skip
    pairs = list(mine.values())  # a tensor with two names is one
    set_extra(ema_copy.module, {path_of(n): t for n, t in source.items() if is_extra(n)})
    averaged = [(a, v) for a, v in pairs if a.is_floating_point() or a.is_complex()]
    if averaged:
        torch._foreach_lerp_([a for a, _ in averaged], [v for _, v in averaged], 1 - ema_copy.decay)
    for own, value in pairs:
        if not (own.is_floating_point() or own.is_complex()):
            own.copy_(value)
