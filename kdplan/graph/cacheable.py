"""Frozen values that need to be computed once a sample: which they are, whether it is possible, whether it pays.

The frozen graph's outputs are functions of a sample alone where nothing about the sample is drawn anew at each step.
Then they can be kept in the store and read instead of running the frozen networks (`frozen = stored` in a recipe).
"""

from __future__ import annotations

import hashlib
import inspect as code
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdplan.data.transforms import TRANSFORMS
from kdplan.diagnostics.report import error, listing
from kdplan.graph.cost import cost
from kdplan.graph.freeze import Split
from kdplan.graph.module import outputs_of
from kdplan.graph.phase_graph import StoredValue
from kdplan.ir import user_code
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.lengths import view_size
from kdplan.ir.plan import Phase, Plan

LIMIT = 16 << 30
"""Bytes: `frozen = auto` stores no more than this for one phase."""
WORTH = 200
"""`frozen = auto` stores where a stored byte spares at least so many floating-point operations a pass; see
docs/results.md for what reading and computing take."""
_FORMAT = 1
"""Raised when values that an older kdplan stored must not be read."""


def storing(plan: Plan, phase: Phase, gm: fx.GraphModule, cut: Split, trainable: set[str]) -> list[StoredValue]:
    """What the phase's recipe wants stored; [] where the frozen part runs in every step.

    Parameters
    ----------
    plan, phase
        What is trained.
    gm, cut, trainable
        The pruned graph, its two parts, and the names of its trainable parameters.

    Raises
    ------
    PlanError
        KD0608 where `frozen = stored` asks for what cannot be done.
    """
    recipe = phase.recipes[0]
    if recipe.frozen == "live":
        return []
    problem = _problem(plan, phase, cut)
    if recipe.frozen == "stored":
        if problem:
            raise error("KD0608", recipe.spans.get("frozen", recipe.span), phase=phase.name, why=problem)
        return _values(plan, phase, cut)
    if problem or recipe.epochs == 1:
        return []
    values = _values(plan, phase, cut)
    spared = cost(gm, trainable).flops_frozen / recipe.batch_of()
    width = sum(v.row_bytes for v in values)
    return values if sum(v.bytes for v in values) <= LIMIT and spared >= WORTH * width else []


def _values(plan: Plan, phase: Phase, cut: Split) -> list[StoredValue]:
    assert cut.frozen is not None
    values = []
    for name, node in outputs_of(cut.frozen).items():
        value = node.meta["val"]
        stream = min(_streams(node))
        rows = view_size(plan, phase.streams[stream])
        owner, path = str(node.meta.get("owner", "")), str(node.meta.get("path", ""))
        network = owner.removeprefix("net ") if owner.startswith("net ") else ""
        values.append(StoredValue(name, stream, rows, tuple(value.shape[1:]), value.dtype, network, path))
    return values


def _problem(plan: Plan, phase: Phase, cut: Split) -> str:
    """Why the frozen values cannot be stored, as the end of a sentence; "" if they can."""
    if cut.frozen is None:
        return "the phase has no frozen network"
    if not cut.cacheable:
        return "a frozen network draws random numbers, or changes with every batch"
    fields = {str(n.target) for n in cut.frozen.graph.nodes if n.op == "placeholder" and n.users}
    counters = sorted(fields & set(STEP_COUNTERS))
    if counters:
        return f"a frozen part reads {listing(counters)}"
    for number, view in enumerate(phase.streams):
        random = [t.name for t in plan.data[view.data].augment if TRANSFORMS[t.name].random]
        if random and any(f.endswith(f"_{number}") for f in fields):
            return f"{listing(random)} of `{view.data}` gives other images in every epoch"
    for name, node in outputs_of(cut.frozen).items():
        value = node.meta["val"]
        if len(_streams(node)) > 1:
            return f"`{name}` depends on several streams, whose batches are paired anew in every epoch"
        batch = {phase.recipes[0].batch_of(s) for s in _streams(node)}
        if not isinstance(value, Tensor) or value.dim() == 0 or {value.shape[0]} != batch:
            return f"`{name}` is not one value for each sample"
    return ""


def _streams(node: fx.Node) -> set[int]:
    """Numbers of the streams that a node depends on."""
    streams: set[int] = set()
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        if at.op == "placeholder":
            number = str(at.target).rpartition("_")[2]
            streams |= {int(number)} if number.isdigit() else set()
        todo += at.all_input_nodes
    return streams or {0}


# ---- what a value is


def content_of(gm: fx.GraphModule, inputs: Mapping[str, str], setting: str) -> dict[fx.Node, str]:
    """For each node a hash of all that its value depends on: operations, weights, what the inputs are.

    Equal hashes in two phases mean one value, whatever networks and nodes are called.

    Parameters
    ----------
    gm
        A frozen graph on real modules.
    inputs
        Placeholder -> what it holds, as a string.
    setting
        Whatever else decides about the numbers: precision, batch size.
    """
    hashes: dict[fx.Node, str] = {}
    modules: dict[str, str] = {}
    for node in gm.graph.nodes:
        if node.op == "output":
            continue
        if node.op == "placeholder":
            what: object = inputs[str(node.target)]
        elif node.op == "get_attr":
            what = _tensor(_attribute(gm, str(node.target)))
        elif node.op == "call_module":
            name = str(node.target)
            if name not in modules:
                modules[name] = _module(gm.get_submodule(name))
            what = modules[name]
        else:
            what = _function(node.target)
        arguments = [_argument(node.args, hashes), _argument(node.kwargs, hashes)]
        hashes[node] = _hash([_FORMAT, setting, node.op, what, arguments])
    return hashes


def _argument(value: object, hashes: Mapping[fx.Node, str]) -> object:
    if isinstance(value, fx.Node):
        return ["node", hashes[value]]
    if isinstance(value, tuple | list):
        return [type(value).__name__, *(_argument(v, hashes) for v in value)]
    if isinstance(value, dict):
        return {str(k): _argument(v, hashes) for k, v in sorted(value.items())}
    return _tensor(value) if isinstance(value, Tensor) else repr(value)


def _attribute(gm: fx.GraphModule, path: str) -> object:
    box, _, leaf = path.rpartition(".")
    return getattr(gm.get_submodule(box), leaf)


def _tensor(value: object) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    held = value.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{held.dtype} {tuple(held.shape)}".encode())
    digest.update(held.reshape(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b"")
    return digest.hexdigest()


def _module(module: nn.Module) -> str:
    """A module by its code, settings and numbers."""
    parts: list[object] = [repr(module), _source(type(module))]
    for name, part in module.named_modules():
        parts.append([name, type(part).__qualname__, part.training, [[k, repr(v)] for k, v in settings(part)]])
        if isinstance(part, fx.GraphModule):
            parts.append(part.code)
    parts += [[n, _tensor(t)] for n, t in (*module.named_parameters(), *module.named_buffers())]
    return _hash(parts)


def settings(module: nn.Module) -> Iterator[tuple[str, object]]:
    """The plain attributes of a module, by name."""
    plain = (bool, int, float, str, type(None))
    for name, value in sorted(vars(module).items()):
        several = isinstance(value, tuple | list) and all(isinstance(v, plain) for v in value)
        if not name.startswith("_") and (isinstance(value, plain) or several):
            yield name, value


def _function(target: object) -> str:
    module = str(getattr(target, "__module__", None) or "")
    own = user_code.source_of(module)
    return f"{own[0] if own else module}.{getattr(target, '__qualname__', target)} {_source(target)}"


_LIBRARIES = ("torch", "_operator", "builtins", "math")


def _source(thing: Any) -> str:
    """The hash of the file that a function or class of ours or of a user is written in; "" for libraries."""
    module = str(getattr(thing, "__module__", None) or "torch")
    if module.partition(".")[0] in _LIBRARIES:
        return ""
    if own := user_code.source_of(module):
        return own[1]
    try:
        file = code.getsourcefile(thing)
    except TypeError:
        return ""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).exists() else ""


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
