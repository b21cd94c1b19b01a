"""From a module to its torch.fx graph, with a name for every inner value."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdplan.diagnostics.boundary import ForeignError, cause_of, is_foreign
from kdplan.graph.asking import lacks_gradients
from kdplan.graph.fake import DATA_DEPENDENT, FakeContext
from kdplan.graph.guards import ASK, Guard
from kdplan.graph.law import check_graph
from kdplan.graph.state import draws_undone
from kdplan.graph.taps import Call, Tap, collect
from kdplan.graph.tracer import ROOT, Holder, PathTracer
from kdplan.graph.uncompiled import uncompiled
from kdplan.graph.written import writes_undone
from kdplan.nn.whose import is_user_code, is_users


class TraceError(RuntimeError, ForeignError):
    """A module cannot be run on inputs of these shapes; its cause is the module's own exception."""


@dataclass
class Traced:
    """A module's graph for one set of input shapes and training modes.

    Attributes
    ----------
    graph
        Targets start with `net.`; placeholders are the tensors among the inputs, in order; meta["val"] are fakes.
    taps
        Name of an inner value -> where it is.
    guards
        What Python control flow asked, and the answers.
    constants
        Tensors made while tracing, by their target in the graph.
    leaves
        Paths of modules that are called whole -> what they do that no graph holds, or why they cannot be traced.
    """

    module: nn.Module
    graph: fx.Graph
    taps: dict[str, Tap]
    guards: list[Guard]
    constants: dict[str, Tensor]
    leaves: dict[str, str]
    context: FakeContext
    calls: list[Call] = field(repr=False, default_factory=list)

    @cached_property
    def root(self) -> nn.Module:
        """A module in which the graph's targets exist."""
        holder = Holder(self.module)
        box = nn.Module()
        for name, value in self.constants.items():
            box.register_buffer(name.rpartition(".")[2], value, persistent=False)
        holder.add_module("constants", box)
        return holder

    @property
    def first(self) -> fx.Node:
        """The first input."""
        placeholder: fx.Node = next(n for n in self.graph.nodes if n.op == "placeholder")
        return placeholder

    @cached_property
    def graph_module(self) -> fx.GraphModule:
        """The graph as a module that takes the same tensors and returns the same structure."""
        return fx.GraphModule(self.root, self.graph)

    def holds_for(self, *inputs: Tensor) -> bool:
        """Whether all guards give the same answers for inputs of other shapes (shape [B', ...]).

        Examples
        --------
        >>> t = trace(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.zeros(2, 3, 4))
        >>> t.holds_for(torch.zeros(7, 3, 4))
        True
        """
        context = FakeContext()
        values: dict[fx.Node, Any] = {}
        given = iter(inputs)
        # Only what the guards depend on is run.
        wanted: set[fx.Node] = set()
        todo = [g.node for g in self.guards]
        while todo:
            node = todo.pop()
            if node not in wanted:
                wanted.add(node)
                todo += node.all_input_nodes
        for node in self.graph.nodes:
            if node.op == "placeholder":
                values[node] = context.fake(next(given))
            elif node in wanted:
                args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
                with torch.no_grad():
                    values[node] = context.run(node, self.root, args, kwargs)
        return all(ASK[g.kind](values[g.node]) == g.answer for g in self.guards)


def trace(
    module: nn.Module,
    *inputs: Any,
    kwargs: dict[str, Any] | None = None,
    leaves: Collection[type | str] = (),
    context: FakeContext | None = None,
) -> Traced:
    """Trace a module on inputs of these shapes, in the training mode that each of its sub-modules has now.

    Modules of torch.nn stay whole. So does whatever cannot be traced: when tracing fails inside a sub-module, that
    sub-module becomes a leaf and tracing starts again.

    Parameters
    ----------
    module
        Real, meta or fake parameters; nothing in it is changed.
    inputs, kwargs
        Tensors (real or fake; only shapes and types count) in any structure, and anything else.
    leaves
        Types and paths of sub-modules to keep whole; of a mapping, the values are the reasons.
    context
        The fake-tensor context; a new one by default.

    Raises
    ------
    TraceError
        If the module cannot run on such inputs.

    Examples
    --------
    >>> t = trace(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    >>> sorted(t.taps)
    ['0', '1', 'features', 'logits', 'output']
    """
    context = context or FakeContext()
    paths = {f"{ROOT}.{p}" if p else ROOT for p in leaves if isinstance(p, str)}
    types = tuple(t for t in leaves if isinstance(t, type))
    args, named = context.fake_tree((inputs, kwargs or {}))
    whole: dict[str, str] = {}
    first: BaseException | None = None
    holder = Holder(module)
    while True:
        tracer = PathTracer(context, types, paths)
        holder._modules.pop("constants", None)
        try:
            with draws_undone(), uncompiled(), writes_undone(module) if is_users(module) else nullcontext():
                graph = tracer.run(holder, args, named)
            if not (new := {p: why for p, why in tracer.impure.items() if _can_be_leaf(tracer, p, holder)}):
                break
            # What a graph does not hold is the module's own to do.
            paths.update(new)
            whole.update({p.removeprefix(ROOT).removeprefix("."): why for p, why in new.items()})
        except BaseException as problem:
            if not is_foreign(problem):
                raise
            first = first or problem
            if not whole:
                _check_runs(context, module, args, named)
            path = next((p for p in reversed(tracer.failed or []) if _can_be_leaf(tracer, p, holder)), None)
            if path is None:
                raise TraceError(str(first)) from first
            paths.add(path)
            whole[path.removeprefix(ROOT).removeprefix(".")] = tracer.impure.get(path) or cause_of(problem).reason
    whole |= leaves if isinstance(leaves, dict) else {}
    for node in graph.nodes:
        if node.op == "call_module":
            node.meta["whole"] = whole.get(str(node.target).removeprefix(ROOT).removeprefix("."), "")
    taps = collect(tracer.calls, _aliases(module), tracer.calls[-1].output)
    if more := getattr(module, "more_taps", None):  # a module may give its values further names
        taps |= more(tracer.calls, taps)
    traced = Traced(module, graph, taps, tracer.guards, tracer.constants, whole, context, tracer.calls)
    check_graph(graph, traced.root)
    return traced


def _can_be_leaf(tracer: PathTracer, path: str, holder: Holder) -> bool:
    return not tracer.is_leaf(holder.get_submodule(path), path)


def _check_runs(context: FakeContext, module: nn.Module, args: Any, kwargs: Any) -> None:
    """Raise the module's own complaint where it cannot run on such inputs at all.

    A user's code may ask for gradients; and it may leave torch, which only real numbers allow.
    """
    users = is_user_code(module)
    complaint: BaseException | None = None
    for gradients, real in ((False, False), (True, False), (False, True), (True, True)) if users else ((False, False),):
        was, context.running = context.running, True
        try:
            with torch.set_grad_enabled(gradients):
                if real:
                    context.really(module, args, kwargs)
                    return
                own = context.asking if gradients else context
                with uncompiled(), context.mode, own.swapped(module):
                    module(*args, **kwargs)
                return
        except DATA_DEPENDENT:
            return
        except BaseException as problem:
            if not is_foreign(problem):
                raise
            if complaint is None or lacks_gradients(complaint) or (real and not lacks_gradients(problem)):
                complaint = problem
        finally:
            context.running = was
    if complaint is not None:
        raise TraceError(str(complaint)) from complaint


def _aliases(module: nn.Module) -> dict[str, list[str]]:
    """First path of a shared sub-module -> its other paths."""
    first: dict[nn.Module, str] = {}
    others: dict[str, list[str]] = {}
    for path, m in module.named_modules(remove_duplicate=False):
        if m in first:
            others.setdefault(first[m], []).append(path)
        else:
            first[m] = path
    return others


def value_at(value: Any, index: tuple[int | str, ...]) -> Any:
    """The part of a structure that a tap's index leads to."""
    for key in index:
        value = operator.getitem(value, key) if not isinstance(key, str) else _named(value, key)
    return value


def _named(value: Any, key: str) -> Any:
    return value[key] if isinstance(value, Mapping) else getattr(value, key)
