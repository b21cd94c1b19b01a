"""Whether one graph serves all sizes of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.trace import trace
from kdplan.ir.lengths import part_sizes, view_size
from kdplan.ir.plan import Phase, Plan


def batch_sizes(plan: Plan, phase: Phase, stream: int) -> tuple[int, ...]:
    """The sizes of a phase's batches, the usual one first: an epoch's last may be another."""
    recipe = phase.recipes[0]
    parts = part_sizes(recipe, [view_size(plan, view) for view in phase.streams])
    batch = recipe.batch_of(stream)
    return (batch, *sorted({part[stream] for part in parts} - {batch}))


def same_graph(module: nn.Module, inputs: Tensor, sizes: Sequence[int]) -> bool:
    """Whether the graph that is traced for the first of these sizes of a batch is right for the others.

    >>> import torch
    >>> class Net(nn.Module):
    ...     def forward(self, x):
    ...         return x if len(x) > 3 else -x
    >>> [same_graph(Net(), torch.zeros(2, 3), sizes) for sizes in ([6, 5], [6, 3])]
    [False, False]
    """
    try:
        graph = trace(module, inputs.new_empty(sizes[0], *inputs.shape[1:]))
        return all(graph.holds_for(inputs.new_empty(size, *inputs.shape[1:])) for size in sizes[1:])
    except BaseException as problem:  # whoever builds the phase reports what does not run at all
        if not is_foreign(problem):
            raise
        return False
