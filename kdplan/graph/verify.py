"""A user's network against its traced graph, on real numbers, before a phase trains.

A network's own `forward` is its meaning; the graph only lets kdplan look inside of it. Both run for two steps from one
state. Where they differ, the network is called whole.

>>> from torch import nn
>>> compare(nn.Linear(3, 2), (torch.ones(4, 3),))
Verdict(differs='', unstable='', leaves=(), attributes=())
"""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdplan.diagnostics.boundary import is_foreign
from kdplan.diagnostics.report import Diagnostic, diagnostic, error, listing
from kdplan.graph.assemble import frozen_versions, trainable_parameters
from kdplan.graph.cacheable import settings
from kdplan.graph.module import make
from kdplan.graph.phase_graph import Networks
from kdplan.graph.state import Attributes, draws_undone, is_user_code
from kdplan.graph.structure import tensors
from kdplan.graph.trace import TraceError, trace
from kdplan.ir import expr as ir
from kdplan.ir.lengths import view_size
from kdplan.ir.plan import Network, Phase, Plan

STEPS = 2
SAMPLES = 4
"""Of a batch; more than one, so that batch norm has a variance."""
LIBRARIES = ("torchvision", "timm")
"""Networks that are known to be traced well."""


@dataclass(frozen=True)
class Verdict:
    """What two steps of a network showed.

    Attributes
    ----------
    differs
        What its graph computes differently; "" for nothing.
    unstable
        What differs between two runs of its own `forward` from one state; "" for nothing.
    leaves
        Paths of parts that are called whole, each with the reason.
    attributes
        Python attributes that `forward` changes, each with its first value.
    """

    differs: str = ""
    unstable: str = ""
    leaves: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()


_VERDICTS: dict[str, Verdict] = {}
"""By the hash of all that decides about them: source, settings, modes, shapes."""


def verify(
    plan: Plan, phase: Phase, networks: Networks, inputs_of: Callable[[int], Tensor | None], batch: bool = False
) -> list[Diagnostic]:
    """Compare a phase's networks with their graphs; those that differ are added to `networks.whole`.

    Parameters
    ----------
    plan, phase
        The networks' modes, what is trained, and where they are applied.
    networks
        Modules with real weights. Their modes are set; nothing else in them changes.
    inputs_of
        The number of a stream -> some of its images [B, C, H, W]; None where there are none.
    batch
        Whether the images are of a real batch, and the weights those of the phase: compared apart from a check's.

    Returns
    -------
    list of Diagnostic
        KD0540 for what is called whole, KD0541 for attributes that change.

    Raises
    ------
    PlanError
        KD0542 where a network differs from itself.
    """
    half = phase.recipes[0].precision in ("bf16", "fp16")
    warnings: list[Diagnostic] = []
    for label, network, module in _foreign(plan, phase, networks):
        taps = _applied(phase, label)
        inputs = inputs_of(taps[0].inputs[0].stream) if taps else None  # type: ignore[union-attr]
        if inputs is None:
            continue
        key = f"{fingerprint(module, (inputs,), half)} {batch}"
        if key not in _VERDICTS:
            _VERDICTS[key] = compare(module, (inputs,), half)
        verdict, span = _VERDICTS[key], network.architecture.span or network.span
        if verdict.unstable:
            raise error("KD0542", span, network=network.name, what=verdict.unstable)
        if verdict.differs:
            networks.whole.add(label)
        reasons = [("", f"its graph gives other {verdict.differs}")] if verdict.differs else verdict.leaves
        for path, reason in reasons:
            part = f"{network.name}.{path}".rstrip(".")
            warnings.append(diagnostic("KD0540", span, network=part, reason=reason))
        if not verdict.differs and not _holds_for(plan, phase, taps[0].inputs[0].stream, module, inputs):  # type: ignore[union-attr]
            networks.whole.add(label)
            reason = "its control flow depends on the size of a batch"
            warnings.append(diagnostic("KD0540", span, network=network.name, reason=reason))
        for name, value in verdict.attributes:
            leaf = name.rpartition(".")[2]
            warnings.append(diagnostic("KD0541", span, network=network.name, name=name, leaf=leaf, value=value))
    return list({(w.code, w.message): w for w in warnings}.values())


def _holds_for(plan: Plan, phase: Phase, stream: int, module: nn.Module, inputs: Tensor) -> bool:
    """Whether the graph of a module is one for all sizes of a batch, of which the last of an epoch is another."""
    batch, size = phase.recipes[0].batch_of(stream), view_size(plan, phase.streams[stream])
    last = size % batch
    return not last or same_graph(module, inputs, (batch, last))


def same_graph(module: nn.Module, inputs: Tensor, sizes: Sequence[int]) -> bool:
    """Whether the graph that is traced for the first of these sizes of a batch is right for the others.

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


def _foreign(plan: Plan, phase: Phase, networks: Networks) -> list[tuple[str, Network, nn.Module]]:
    """Labels, declarations and modules of the networks with a user's code, in the mode of the phase."""
    users: list[tuple[str, Network, nn.Module]] = []
    for slot, (trainee, module) in enumerate(zip(phase.trainees, networks.trainable, strict=True)):
        if is_users(module):
            trainable_parameters(plan, phase, trainee, module)
            users.append((str(slot), plan.networks[trainee.base.network], module))
    for version in frozen_versions(phase):
        module = networks.of(version)
        if is_users(module):
            module.train(plan.networks[version.network].mode == "train")
            users.append((str(version), plan.networks[version.network], module))
    return users


def is_users(module: nn.Module) -> bool:
    """Whether a module has a part that is not torch's, ours, torchvision's or timm's.

    >>> is_users(nn.Sequential(nn.Linear(2, 2)))
    False
    """
    return any(
        is_user_code(type(m)) and type(m).__module__.partition(".")[0] not in LIBRARIES for m in module.modules()
    )


def _applied(phase: Phase, label: str) -> list[ir.Tap]:
    """Taps of a network that is applied to the images of a stream."""
    taps = []
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and not e.since and not e.submodule and len(e.inputs) == 1:
                of = str(e.of.slot) if isinstance(e.of, ir.InTraining) else str(e.of)
                only = e.inputs[0]
                if of == label and isinstance(only, ir.StreamField) and only.field == "inputs":
                    taps.append(e)
    return taps


def fingerprint(module: nn.Module, inputs: Sequence[Tensor], half: bool) -> str:
    """The hash of what a verdict depends on: sources, settings and modes of all parts, shapes; not the weights."""
    parts: list[object] = [repr(module), half, torch.__version__, [[*v.shape, str(v.dtype)] for v in inputs]]
    for name, part in module.named_modules():
        kept = [[k, repr(v)] for k, v in settings(part)]
        functions = [f for f in (type(part).forward, *vars(part).values()) if isinstance(f, FunctionType)]
        parts.append([name, type(part).__qualname__, list(map(_source, functions)), part.training, kept])
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _source(function: FunctionType) -> str:
    """The file that a function is written in, and what it does, as text: a user's file is in no table of modules."""
    code, file = function.__code__, Path(function.__code__.co_filename)
    text = file.read_text(encoding="utf-8") if is_user_code(function) and file.exists() else ""
    return (
        f"{code.co_code.hex()} {code.co_names} {function.__qualname__} {text}"
        if is_user_code(function)
        else code.co_filename
    )


# ---- two steps


def compare(module: nn.Module, inputs: Sequence[Tensor], half: bool = False) -> Verdict:
    """Run a module twice as it is and once as its graph, each for two steps from one state.

    A module that does not run on such inputs has an empty verdict: whoever builds the phase reports that.
    """
    with torch.random.fork_rng(devices=[]), draws_undone(), torch.enable_grad():
        try:
            first, second, traced = (copy.deepcopy(module) for _ in range(3))
            attributes = Attributes(first)
            values = {n: _written(v) for m in first.modules() for n, v in vars(m).items()}
            expected = _observe(first, first, inputs, half)
            changed = tuple((n, values[n.rpartition(".")[2]]) for n in attributes.changed())
            again = _observe(second, second, inputs, half)
        except BaseException as problem:
            if not is_foreign(problem):
                raise
            return Verdict()
        if unstable := _difference(expected, again):
            return Verdict(unstable=unstable, attributes=changed)
        try:
            graph = trace(traced, *inputs)
            leaves = tuple((path, why) for path, why in graph.leaves.items() if why)
            result = _observe(make(graph.root, graph.graph), traced, inputs, half)
        except TraceError:
            return Verdict(attributes=changed)
        except BaseException as problem:  # the graph itself may be wrong in any way
            if not is_foreign(problem):
                raise
            return Verdict(differs=f"results: it fails with {type(problem).__name__}", attributes=changed)
        return Verdict(_difference(expected, result), "", leaves, changed)


def _written(value: object) -> str:
    """The first value of an attribute, as a message shows it."""
    if isinstance(value, Tensor):
        return repr(value.tolist()) if value.numel() <= 8 else "…"
    return repr(value)


def _observe(call: nn.Module, module: nn.Module, inputs: Sequence[Tensor], half: bool) -> list[tuple[str, Any]]:
    """What each step leaves, by what it is."""
    seen: list[tuple[str, Any]] = []
    for step in range(STEPS):
        torch.default_generator.manual_seed(step)
        random.seed(step)
        np.random.seed(step)
        for p in module.parameters():
            p.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = tensors(call(*(v.clone() for v in inputs)))  # a network may write into its inputs
        seen.append(("outputs", [v.detach().clone() for v in outputs]))
        total = sum(((v.float() * _weights(v)).sum() for v in outputs if v.requires_grad), torch.zeros(()))
        if total.requires_grad:
            total.backward()  # type: ignore[no-untyped-call]
        seen.append(("gradients", {n: _kept(p.grad) for n, p in module.named_parameters()}))
        seen.append(("buffers", {n: _kept(b) for n, b in module.named_buffers()}))
        seen.append(("draws of torch's generator", [torch.rand(1)]))
        seen.append(("draws of Python's generator", [random.random()]))
        seen.append(("draws of NumPy's generator", [float(np.random.rand())]))
    return seen


def _kept(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach().clone()


def _weights(value: Tensor) -> Tensor:
    """Another weight for each number, so that no gradient is zero by symmetry."""
    return torch.linspace(0.5, 1.5, value.numel()).reshape(value.shape)


def _difference(expected: list[tuple[str, Any]], result: list[tuple[str, Any]]) -> str:
    """The kinds of what differs, as words; "" where nothing does."""
    kinds = [what for (what, one), (_, two) in zip(expected, result, strict=True) if not _equal(one, two)]
    return listing(dict.fromkeys(kinds)).replace("`", "") if kinds else ""


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k]) for k, v in a.items())
    if isinstance(a, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = (a.shape, a.dtype) == (b.shape, b.dtype)
        return same and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    return type(a) is type(b) and a == b
