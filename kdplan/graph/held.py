"""What training keeps besides a step's tensors, in bytes: the optimizers' state, and copies of the whole state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.dag import AT_ONCE
from kdplan.ir.plan import Item, Phase, Recipe
from kdplan.nn.optim import build_optimizer

_NUMBER = 4
_WIDE = 8
"""Bytes of a sum of the loss or of a logged term."""


def optimizer_bytes(item: Item, parameters: Iterable[Tensor]) -> int:
    """Bytes of the state that an optimizer has for some parameters after its first step.

    It does a step on parameters without memory, one for each shape.

    Examples
    --------
    >>> weights = [torch.zeros(3, 4), torch.zeros(5)]
    >>> optimizer_bytes(Item("sgd", {"momentum": 0.9}), weights), optimizer_bytes(Item("adam"), weights)
    (68, 144)
    """
    kinds = Counter((tuple(p.shape), p.dtype) for p in parameters)
    if item.name in _BY_SHAPE:
        return sum(n * _BY_SHAPE[item.name](shape, dtype.itemsize) for (shape, dtype), n in kinds.items())
    return sum(n * _stepped(item, shape, dtype) for (shape, dtype), n in kinds.items())


def _stepped(item: Item, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    # A number of its own is taken for a list of one: some steps ask for its value.
    parameter = nn.Parameter(torch.empty(shape or (1,), dtype=dtype, device="meta"))
    parameter.grad = torch.empty_like(parameter)
    try:
        optimizer = build_optimizer(item.name, item.arguments, [parameter])
    except ValueError:  # the run refuses these parameters
        return 0
    optimizer.step()
    return size_of(t for t in optimizer.state[parameter].values() if isinstance(t, Tensor))


def _adafactor(shape: tuple[int, ...], size: int) -> int:
    """Variances of rows and of columns, where there are both; and the step."""
    numel = torch.Size(shape).numel()
    if len(shape) < 2:
        return numel * size + _NUMBER
    return (numel // max(shape[-1], 1) + numel // max(shape[-2], 1)) * size + _NUMBER


_BY_SHAPE: dict[str, Callable[[tuple[int, ...], int], int]] = {
    "adafactor": _adafactor,
    "asgd": lambda shape, size: torch.Size(shape).numel() * size + 3 * _NUMBER,
    "sparseadam": lambda shape, size: 2 * torch.Size(shape).numel() * size,
}
"""Optimizers whose step needs numbers: bytes by a parameter's shape and the size of its numbers."""


def parameters_by_recipe(phase: Phase, held: PhaseGraph) -> list[tuple[Recipe, list[nn.Parameter]]]:
    """Each recipe of a phase with the parameters that its optimizer trains."""
    named, alone = held.named_trainable(), len(phase.recipes) == 1
    return [(r, [p for n, p in named.items() if alone or recipe_of(n) == i]) for i, r in enumerate(phase.recipes)]


def state_bytes(phase: Phase, held: PhaseGraph) -> int:
    """Bytes of all tensors of a checkpoint, but for what `on_nan = rollback` adds."""
    total = size_of(held.state().values())
    total += sum(optimizer_bytes(recipe.optimizer, ps) for recipe, ps in parameters_by_recipe(phase, held))
    if phase.recipes[0].ema is not None:
        total += sum(size_of(network.state_dict().values()) for network in held.networks)
    return total + _WIDE * (1 + len(held.terms))


def copy_bytes(phase: Phase, held: PhaseGraph) -> int:
    """Bytes of the copies of the state that training keeps in the host's memory.

    They are the one from which a thread writes checkpoints, if they are large enough, and the one to which
    `on_nan = rollback` goes back, which checkpoints hold as well.
    """
    one = state_bytes(phase, held)
    back = one if phase.recipes[0].on_nan.name == "rollback" else 0
    return back + (one + back if one + back > AT_ONCE else 0)


def recipe_of(name: str) -> int:
    """The number of the recipe that trains a parameter, by its name in `PhaseGraph.named_trainable`.

    >>> recipe_of("1/conv.weight"), recipe_of("splice/a.weight")
    (1, 0)
    """
    slot = name.split("/", 1)[0]
    return 0 if slot == "splice" else int(slot)  # adapters' names in checkpoints are older than the word


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of all numbers of some tensors.

    >>> size_of([torch.zeros(3), torch.zeros(2, dtype=torch.int64)])
    28
    """
    return sum(t.numel() * t.element_size() for t in tensors)
