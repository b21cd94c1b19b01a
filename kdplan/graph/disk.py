"""What a phase leaves on disk, before it trains: the bytes of its artifact's files of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdplan.graph.assemble import Joined, phase_state
from kdplan.graph.held import size_of
from kdplan.graph.phase_graph import Networks, PhaseGraph
from kdplan.ir.lengths import epoch_count, extendable, view_size
from kdplan.ir.plan import Phase, Plan, Recipe
from kdplan.ir.snapshots import kept_epochs
from kdplan.nn.optim import state_of

_ORDER = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64")
"""Types as safetensors sorts tensors by them, the last first."""
_NAMES = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.uint16: "U16",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int32: "I32", torch.uint32: "U32", torch.float32: "F32",
    torch.complex64: "C64", torch.float64: "F64", torch.int64: "I64", torch.uint64: "U64",
}  # fmt: skip


@dataclass(frozen=True)
class Left:
    """Bytes of an artifact, and of what optimizers hold in memory while it is made.

    Attributes
    ----------
    disk
        Weights of all networks and snapshots, and the last state.
    last_state
        The part of them that only a longer run of the phase reads.
    optimizer
        State of the optimizers.
    state
        All tensors of a checkpoint, but for what `on_nan = rollback` adds.
    """

    disk: int
    last_state: int
    optimizer: int
    state: int


def file_bytes(tensors: Mapping[str, Tensor]) -> int:
    """The size of a safetensors file.

    >>> from safetensors.torch import save
    >>> tensors = {"b": torch.zeros(3), "a": torch.zeros(2, dtype=torch.int64), "c": torch.tensor(True)}
    >>> file_bytes(tensors) == len(save(tensors))
    True
    """
    header: dict[str, object] = {}
    end = 0
    for name, t in sorted(tensors.items(), key=lambda item: (-_ORDER.index(_NAMES[item[1].dtype]), item[0])):
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {"dtype": _NAMES[t.dtype], "shape": list(t.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + end


def left(plan: Plan, phase: Phase, joined: Joined, networks: Networks) -> Left:
    """What a phase leaves, whose networks may be on the meta device."""
    graph = phase_state(plan, phase, networks, joined)
    averaged = phase.recipes[0].ema is not None
    own = sum(file_bytes(n.state_dict()) for n in graph.networks)
    disk = own * (1 + averaged + bool(phase.validations) + _kept(plan, phase))
    disk += sum(file_bytes(copy.module.state_dict()) for copy in graph.ema_copies)
    state = dict(_optimizer_state(phase, graph))
    tensors = {f"model/{name}": t for name, t in graph.state().items()} | state
    if averaged:
        tensors |= {f"average/{i}/{n}": t for i, m in enumerate(graph.networks) for n, t in m.state_dict().items()}
    tensors["watch/sums"] = torch.empty(1 + len(joined.logged), dtype=torch.float64, device="meta")
    last = file_bytes(tensors) if extendable(phase) else 0
    return Left(disk + last, last, size_of(state.values()), size_of(tensors.values()))


def _kept(plan: Plan, phase: Phase) -> int:
    """How many snapshots of epochs the recipe keeps."""
    recipe = phase.recipes[0]
    count = epoch_count(recipe, view_size(plan, phase.streams[0]))
    return sum(len(names) for epoch, names in kept_epochs(recipe).items() if epoch <= count)


def _optimizer_state(phase: Phase, graph: PhaseGraph) -> Iterator[tuple[str, Tensor]]:
    """What the optimizers keep of each trained parameter after a step, by its name in a checkpoint."""
    known: dict[tuple[int, torch.Size, torch.dtype], dict[str, Tensor]] = {}
    for name, p in graph.named_trainable().items():
        number = recipe_of(name) if len(phase.recipes) > 1 else 0
        key = number, p.shape, p.dtype
        if key not in known:
            known[key] = _state(phase.recipes[number], p)
        for entry, value in known[key].items():
            yield f"optim/{number}/{name}/{entry}", value


def recipe_of(name: str) -> int:
    """The number of the recipe that a parameter is trained by, where each trainee has one; adapters have the first.

    >>> recipe_of("1/fc.weight"), recipe_of("splice/fit.weight")
    (1, 0)
    """
    slot = name.split("/", 1)[0]
    return 0 if slot == "splice" else int(slot)  # adapters' names in checkpoints are older than the word


def _state(recipe: Recipe, p: nn.Parameter) -> dict[str, Tensor]:
    return state_of(recipe.optimizer.name, recipe.optimizer.arguments, p)
