"""Expressions to nodes: builds a phase's graph from its loss, and checks roles, classes and shapes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import error
from kdplan.graph.adapter import ADAPTERS, Adapters
from kdplan.graph.build import PastError, ShapeError
from kdplan.graph.examples import example
from kdplan.graph.functions import built_in, check_call, user
from kdplan.graph.loss_context import LossContext, no_tap
from kdplan.graph.messages import mismatch
from kdplan.graph.routes import Routes
from kdplan.graph.rows import check_arguments, over_classes, result
from kdplan.graph.signals import Role, Signal, class_set, shown
from kdplan.graph.sparse_signals import SPARSE, only_dense, sparse_loss
from kdplan.graph.swapped import Sides, parameters_of, sides
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError
from kdplan.ir import expr as ir
from kdplan.ir.branches import split
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.operators import OPERATORS
from kdplan.ir.outputs import PROBABILITIES, is_scores


@dataclass
class Lowering:
    """Turns the expressions of one phase into nodes of one graph."""

    context: LossContext
    adapters: Adapters
    memo: dict[int, Signal] = field(default_factory=dict)
    compared: list[Sides] = field(default_factory=list)
    """Calls of functions of a student and a teacher."""

    def __post_init__(self) -> None:
        self.routes = Routes(self.context)

    def lower(self, e: ir.Expr) -> Signal:
        """The node of an expression; the same object lowers to the same node.

        Raises
        ------
        PlanError
            KD0501 to KD0518, KD0530 to KD0535: see the table of errors.
        """
        if id(e) not in self.memo:
            self.memo[id(e)] = _RULES[type(e)](self, e)
        return self.memo[id(e)]

    # ---- leaves

    def _const(self, e: ir.Const) -> Signal:
        return Signal(e.value, "number")

    def _step_counter(self, e: ir.StepCounter) -> Signal:
        return Signal(self.context.builder.scalar(e.name), "number", name=e.name)

    def _stream(self, e: ir.StreamField) -> Signal:
        view = self.context.phase.streams[e.stream]
        data = self.context.plan.data[view.data]
        name = f"{e.field}_{e.stream}"
        if e.field == "inputs":
            if data.shape is None:
                raise error("KD0514", e.span, name=data.name)
            node = self.context.builder.input(name, example(data, self.context.batch(e.stream)))
            return Signal(node, "inputs", name=e.field)
        if e.field == "targets":
            if data.task != "detection":
                raise error("KD0515", e.span, name=data.name)
            return Signal(self._targets(e.stream, data.objects), name="targets")
        if e.field == "labels" and data.task == "detection":
            raise error("KD0776", e.span, name=data.name)
        node = self.context.builder.input(name, torch.zeros(self.context.batch(e.stream), dtype=torch.long))
        if e.field == "indices":
            return Signal(node, "features", name=e.field)
        ids = tuple(view.classes.ids) if view.classes else tuple(range(len(data.classes)))
        return Signal(node, "labels", (data.name, ids), len(ids), "labels")

    def _targets(self, stream: int, most: int) -> dict[str, fx.Node]:
        """The boxes of a batch: `kdplan.data.dataset.BoxDataset` says what each is."""
        shapes = {"boxes": (most, 4), "classes": (most,), "crowd": (most,), "sizes": (2,)}
        types = {"classes": torch.long, "crowd": torch.bool}
        size = self.context.batch(stream)
        nodes = {
            name: self.context.builder.input(f"{name}_{stream}", torch.zeros(size, *shape, dtype=types.get(name)))
            for name, shape in shapes.items()
        }
        return {"boxes": nodes["boxes"], "labels": nodes["classes"], "crowd": nodes["crowd"], "sizes": nodes["sizes"]}

    # ---- networks

    def _tap(self, e: ir.Tap) -> Signal:
        given = [self.lower(i) for i in e.inputs]
        only_dense(given, e.inputs, "a network", e)
        inputs = [i.value for i in given]
        network = self.context.network(e.of)
        key = self.context.names[str(e.of.slot) if isinstance(e.of, ir.InTraining) else str(e.of)]
        label = f"{key}.{e.path or e.submodule or 'output'}"
        branch, path = split(network, e.path)
        role: Role = "logits" if is_scores(path) else "features"
        if e.submodule and path in ("", "output"):
            role = "features"  # what a part gives is no scores, unless the plan says so
        inside = "output" if is_scores(path) else path
        inside = f"{branch}.{inside}" if branch else inside
        node = (
            self._since(key, given[0], inside, e)
            if e.since
            else self.context.apply(self.context.builder, key, inputs, inside, e)
        )
        if path == PROBABILITIES:
            node = self.context.call(built_in("softmax"), (node,), e.span, "softmax")
            role = "probabilities"
        signal = Signal(node, role, name=label)
        if role != "features" and signal.is_tensor and len(signal.shape) == 2:
            signal = replace(signal, classes=class_set(network.classes), count=signal.shape[1])
        return signal

    def _since(self, key: str, x: Signal, path: str, e: ir.Tap) -> fx.Node:
        """The node of a tap whose network is entered at another tap."""
        data = self.context.plan.data[self.context.phase.streams[0].data]
        if data.shape is None:
            raise error("KD0514", e.span, name=data.name)
        inputs = example(data, self.context.batch(0))
        if not x.is_tensor:
            raise error("KD0246", e.inputs[0].span or e.span, what="a number", help=None)
        try:
            return self.context.builder.apply_since(key, e.since, inputs, x.value, path, e.call)
        except TapError as problem:
            nodes = [self.context.builder.input("inputs_0", inputs)]
            raise no_tap(self.context.builder, key, nodes, problem.path, e) from problem
        except TraceError as problem:
            shapes = f"images {shown(tuple(inputs.shape))}"
            raise foreign("KD0508", e.span, problem, network=key, shapes=shapes) from problem
        except PastError as problem:
            raise error("KD0518", e.span, tap=path, since=e.since, network=key) from problem
        except ShapeError as problem:
            first, second = (e.inputs[0].span.text if e.inputs[0].span else x.name), f"{key}.{e.since}"
            one, two = x.shape, problem.wanted
            differ = "dimensions" if len(one) != len(two) else "channels" if one[1] != two[1] else "size"
            help = f"Give a signal of the shape of `{second}`."
            raise error("KD0502", e.span, first=first, second=second, one=shown(one), two=shown(two), differ=differ,
                        help=help) from problem  # fmt: skip

    # ---- operators and functions

    def _op(self, e: ir.Op) -> Signal:
        parts = [self.lower(a) for a in e.args]
        only_dense(parts, e.args, "a list" if e.op == "list" else f"`{e.op}`", e)
        values = [p.value for p in parts]
        if e.op == "list":
            return Signal(values)
        if e.op == "neg":
            return Signal(self.context.call(OPERATORS["neg"], values, e.span, "-"))
        _check_broadcast(parts, e)
        total = values[0]
        for value in values[1:]:
            total = self.context.call(OPERATORS[e.op], (total, value), e.span, e.op)
        return Signal(total)

    def _call(self, e: ir.Call) -> Signal:
        if ":" in e.function:
            return self._user_call(e)
        spec = FUNCTIONS[e.function]
        if spec.built == "route":
            return self.routes.route(e, self.lower)
        args = [self.lower(a) for a in e.args]
        if not spec.sparse:
            only_dense(args, e.args, f"`{e.function}`", e)
        keywords = {n: self.lower(a).value for n, a in e.keywords.items()}
        self._note(sides(e, parameters_of(e), args, {}))
        args = check_arguments(self.context, spec, args, keywords, e)
        if spec.built == "adapter":
            return ADAPTERS[e.function](self.adapters, *args, **keywords, span=e.span)
        if spec.built == "sparse":
            return SPARSE[e.function](self.context, e, *args, **keywords)
        if spec.over_classes and any(a.ids is not None for a in args):
            return sparse_loss(self.context, e, args[0], args[1], keywords)
        if spec.over_classes:
            args = over_classes(self.context, spec, args, keywords, e)
        values = [a.value for a in args]
        node = self.context.call(built_in(e.function), values, e.span, e.function, keywords)
        return result(spec, node, args, keywords)

    def _user_call(self, e: ir.Call) -> Signal:
        path, _, name = e.function.rpartition(":")
        args = [self.lower(a) for a in e.args]
        keywords = {n: self.lower(a) for n, a in e.keywords.items()}
        only_dense([*args, *keywords.values()], [*e.args, *e.keywords.values()], f"`{name}`", e)
        code = user(path, name, e.span)
        check_call(code, name, e)
        self._note(sides(e, parameters_of(e, code), args, keywords))
        values = {n: a.value for n, a in keywords.items()}
        node = self.context.call(code, tuple(a.value for a in args), e.span, name, values)
        if not isinstance(node.meta["val"], Tensor | int | float):
            raise error("KD0519", e.span, name=name, kind=type(node.meta["val"]).__name__)
        return Signal(node, name=name)

    def _note(self, seen: Sides | None) -> None:
        if seen is not None:
            self.compared.append(seen)


def _check_broadcast(parts: list[Signal], e: ir.Op) -> None:
    """KD0502 where shapes of an operator's sides neither agree nor hold a scalar."""
    shaped = [(i, p) for i, p in enumerate(parts) if p.is_tensor and p.shape]
    for (i, a), (j, b) in itertools.pairwise(shaped):
        try:
            torch.broadcast_shapes(a.shape, b.shape)  # type: ignore[no-untyped-call]
        except RuntimeError:
            raise mismatch(e, (a, b), (i, j)) from None


_RULES: dict[type, Callable[[Lowering, Any], Signal]] = {
    ir.Const: Lowering._const,
    ir.StepCounter: Lowering._step_counter,
    ir.StreamField: Lowering._stream,
    ir.Tap: Lowering._tap,
    ir.Op: Lowering._op,
    ir.Call: Lowering._call,
}
