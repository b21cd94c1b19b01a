"""The optimizers of a stack: as one where each number is updated by itself, else each member's own."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from kdplan.nn.stacked_optim import StackedOptimizer, clip_rows, stacked_kind
from kdplan.runtime.loop import Training

Copied = list[dict[tuple[str, str], Tensor]]
"""For each optimizer: key and name -> the row of a member."""


class StackedOptimizers:
    """The optimizers of the members of a stack.

    Parameters
    ----------
    members
        Row -> training; each keeps its schedules and rates, and its optimizers' states are views of rows.
    homes
        Row -> name in the stack -> the member's own tensor.
    tensors
        Name -> trained parameter [k, ...].
    """

    def __init__(
        self,
        members: Mapping[int, Training],
        homes: Mapping[int, Mapping[str, Tensor]],
        tensors: Mapping[str, Tensor],
    ) -> None:
        self.members, self.homes, self.tensors = members, homes, dict(tensors)
        self.rows = len(next(iter(tensors.values()))) if tensors else 0
        first = next(iter(members))
        self.stacked: list[StackedOptimizer] = []
        kinds = [stacked_kind(optimizers) for optimizers in zip(*(_own(t) for t in members.values()), strict=True)]
        self.clips = any(t.optimisers.clip is not None for t in members.values())
        if any(kind is None for kind in kinds):
            return
        for number, kind in enumerate(kinds):
            mine = {id(p) for p in _own(members[first])[number].param_groups[0]["params"]}
            names = [n for n in tensors if id(homes[first][n]) in mine]
            assert kind is not None
            self.stacked.append(kind({n: tensors[n] for n in names}))

    def bind(self, row: int) -> None:
        """Let the states of a member's optimizers be views of its row, with the values that they have."""
        for optimizer, stacked in zip(_own(self.members[row]), self.stacked, strict=False):
            for key, tensors in stacked.state.items():
                for name, tensor in tensors.items():
                    state = optimizer.state[self.homes[row][name]]
                    own = state.get(key)
                    tensor[row] = own if isinstance(own, Tensor) else 0
                    state[key] = tensor[row]

    def release(self, row: int) -> None:
        """Give a member's optimizers states of their own."""
        for optimizer, stacked in zip(_own(self.members[row]), self.stacked, strict=False):
            for key, tensors in stacked.state.items():
                for name in tensors:
                    state = optimizer.state[self.homes[row][name]]
                    if isinstance(state.get(key), Tensor):
                        state[key] = state[key].clone()

    def step(self, active: Mapping[int, Training]) -> None:
        """Clip the gradients of each active member, and update its parameters."""
        if not self.stacked:
            for row, training in active.items():
                for name, tensor in self.tensors.items():
                    self.homes[row][name].grad = tensor.grad[row] if tensor.grad is not None else None
                training.optimisers.finish_step(training.scaler)
            return
        if self.clips:
            limits = [_limit(self.members.get(row)) for row in range(self.rows)]
            clip_rows(list(self.tensors.values()), limits)
        for number, stacked in enumerate(self.stacked):
            groups = {row: _own(training)[number].param_groups[0] for row, training in active.items()}
            some = next(iter(groups.values()))
            stacked.step([groups.get(row) or {**some, "lr": 0.0} for row in range(self.rows)])

    def copied(self, row: int) -> Copied:
        """A copy of a member's states."""
        states = [stacked.state for stacked in self.stacked]
        return [{(k, n): t[row].clone() for k, named in state.items() for n, t in named.items()} for state in states]

    def put_back(self, row: int, copied: Copied) -> None:
        """The inverse of `copied`."""
        for stacked, tensors in zip(self.stacked, copied, strict=True):
            for (key, name), tensor in tensors.items():
                stacked.state[key][name][row] = tensor


def _own(training: Training) -> list[torch.optim.Optimizer]:
    return training.optimisers.optimizers


def _limit(training: Training | None) -> float:
    limit = training.optimisers.clip if training is not None else None
    return limit if limit is not None else math.inf
