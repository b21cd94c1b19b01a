"""Expressions to nodes: builds a phase's graph from its loss, checking roles, classes and shapes as it goes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdplan.diagnostics.report import error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.graph.adapter import Adapters
from kdplan.graph.build import Builder, BuildError, PastError, ShapeError
from kdplan.graph.functions import built_in, user
from kdplan.graph.routes import SPARSE, Routes, only_dense
from kdplan.graph.signals import Signal, class_set, dims, permutation, shown
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError
from kdplan.ir import expr as ir
from kdplan.ir.branches import split
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.operators import OPERATORS
from kdplan.ir.plan import Phase, Plan
from kdplan.ir.spec import Param, Spec

_KEEP_ROLE = frozenset({"detach", "reverse"})


@dataclass
class Lowering:
    """Turns the expressions of one phase into nodes of one builder.

    `names` gives, for each moving slot and each frozen version, the name under which the builder has the network.
    """

    plan: Plan
    phase: Phase
    builder: Builder
    names: dict[str, str]
    adapters: Adapters

    def __post_init__(self) -> None:
        self.memo: dict[int, Signal] = {}
        self.routes = Routes(self)

    def lower(self, e: ir.Expr) -> Signal:
        """The node of an expression; the same object lowers to the same node.

        Raises
        ------
        PlanError
            KD0501 to KD0513: see the table.
        """
        if id(e) not in self.memo:
            self.memo[id(e)] = _RULES[type(e)](self, e)
        return self.memo[id(e)]

    # ---- leaves

    def _const(self, e: ir.Const) -> Signal:
        return Signal(e.value, "number")

    def _step_counter(self, e: ir.StepCounter) -> Signal:
        return Signal(self.builder.scalar(e.name), "number", name=e.name)

    def _stream(self, e: ir.StreamField) -> Signal:
        view = self.phase.streams[e.stream]
        data = self.plan.data[view.data]
        name = f"{e.field}_{e.stream}"
        if e.field == "inputs":
            if data.shape is None:
                raise error("KD0514", e.span, name=data.name)
            example = torch.zeros(self._batch(e.stream), *data.shape)
            return Signal(self.builder.input(name, example), "inputs", name=e.field)
        if e.field == "targets":
            if data.task != "detection":
                raise error("KD0515", e.span, name=data.name)
            return Signal(self._targets(e.stream, data.objects), name="targets")
        if e.field == "labels" and data.task == "detection":
            raise error("KD0776", e.span, name=data.name)
        node = self.builder.input(name, torch.zeros(self._batch(e.stream), dtype=torch.long))
        if e.field == "indices":
            return Signal(node, "features", name=e.field)
        ids = tuple(view.classes.ids) if view.classes else tuple(range(len(data.classes)))
        return Signal(node, "labels", (data.name, ids), len(ids), "labels")

    def _batch(self, stream: int) -> int:
        return self.phase.recipes[0].batch_of(stream)

    def _targets(self, stream: int, most: int) -> dict[str, Any]:
        """The boxes of a batch: `kdplan.data.dataset.BoxDataset` says what each is."""
        shapes = {"boxes": (most, 4), "classes": (most,), "crowd": (most,), "sizes": (2,)}
        types = {"classes": torch.long, "crowd": torch.bool}
        size = self._batch(stream)
        nodes = {
            name: self.builder.input(f"{name}_{stream}", torch.zeros(size, *shape, dtype=types.get(name)))
            for name, shape in shapes.items()
        }
        return {"boxes": nodes["boxes"], "labels": nodes["classes"], "crowd": nodes["crowd"], "sizes": nodes["sizes"]}

    # ---- networks

    def _tap(self, e: ir.Tap) -> Signal:
        given = [self.lower(i) for i in e.inputs]
        only_dense(given, e.inputs, "a network", e)
        inputs = [i.value for i in given]
        network = self._network(e.of)
        key = self.names[str(e.of.slot) if isinstance(e.of, ir.InTraining) else str(e.of)]
        label = f"{key}.{e.path or e.submodule or 'output'}"
        branch, path = split(network, e.path)
        path, role = path or "output", "features"
        if path in ("logits", "probabilities") or (path == "output" and not e.submodule):
            role = "logits"
        inside = "logits" if path == "probabilities" else path
        inside = f"{branch}.{inside}" if branch else inside
        node = self._since(key, given[0], inside, e) if e.since else self.apply_in(self.builder, key, inputs, inside, e)
        if path == "probabilities":
            node = self._call(built_in("softmax"), (node,), {}, e.span, "softmax")
            role = "probabilities"
        found = Signal(node, role, name=label)  # type: ignore[arg-type]
        if role in ("logits", "probabilities") and found.is_tensor and len(found.shape) == 2:
            found = replace(found, classes=class_set(network.classes), count=found.shape[1])
        return found

    def _since(self, key: str, x: Signal, path: str, e: ir.Tap) -> Any:
        """The node of a tap whose network is entered at another tap."""
        data = self.plan.data[self.phase.streams[0].data]
        if data.shape is None:
            raise error("KD0514", e.span, name=data.name)
        example = torch.zeros(self._batch(0), *data.shape)
        if not x.is_tensor:
            raise error("KD0246", e.inputs[0].span or e.span, what="a number", help=None)
        try:
            return self.builder.apply_since(key, e.since, example, x.value, path)
        except TapError as problem:
            inputs = [self.builder.input("inputs_0", example)]
            raise self._no_tap(self.builder, key, inputs, problem.path, e) from problem
        except TraceError as problem:
            shapes = f"images {shown(tuple(example.shape))}"
            raise error("KD0508", e.span, network=key, shapes=shapes, problem=first_line(problem)) from problem
        except PastError as problem:
            raise error("KD0518", e.span, tap=path, since=e.since, network=key) from problem
        except ShapeError as problem:
            first, second = (e.inputs[0].span.text if e.inputs[0].span else x.name), f"{key}.{e.since}"
            one, two = x.shape, problem.wanted
            differ = "dimensions" if len(one) != len(two) else "channels" if one[1] != two[1] else "size"
            help = f"Give a signal of the shape of `{second}`."
            raise error("KD0502", e.span, first=first, second=second, one=shown(one), two=shown(two), differ=differ,
                        help=help) from problem  # fmt: skip

    def _network(self, of: ir.Version | ir.InTraining) -> Any:
        name = self.phase.trainees[of.slot].base.network if isinstance(of, ir.InTraining) else of.network
        return self.plan.networks[name]

    def apply_in(self, builder: Builder, key: str, inputs: list[Any], path: str, e: ir.Tap) -> Any:
        """The node of a network's tap in a graph that is being built.

        Raises
        ------
        PlanError
            KD0501 where there is no such tap, KD0508 where the network does not run on such inputs.
        """
        try:
            if e.submodule:
                return builder.apply_submodule(key, e.submodule, tuple(inputs), path)
            return builder.apply(key, tuple(inputs), path)
        except TapError as problem:
            raise self._no_tap(builder, key, inputs, path, e) from problem
        except AttributeError as problem:
            known = [n for n, _ in builder.networks[key].named_children()]
            raise error(
                "KD0501", e.span, network=key, tap=e.submodule, help=f"Choose from {listing(known)}."
            ) from problem
        except TraceError as problem:
            shapes = listing(dims(tuple(i.meta["val"].shape)) for i in inputs if hasattr(i, "meta"))
            raise error("KD0508", e.span, network=key, shapes=shapes, problem=first_line(problem)) from problem

    def _no_tap(self, builder: Builder, key: str, inputs: list[Any], path: str, e: ir.Tap) -> Exception:
        known = builder.taps(key, tuple(inputs), e.submodule)
        top = [t for t in known if "." not in t and "#" not in t and t not in ("output", "logits", "features")]
        depth = path.count(".")
        near = nearest(path, [t for t in known if t.count(".") == depth])
        help = f"Did you mean `{near}`? " if near else ""
        return error(
            "KD0501",
            e.span,
            network=key,
            tap=path,
            help=f"{help}Choose from {listing([*top, 'logits', 'features'], 20)}.",
        )

    # ---- operators and functions

    def _op(self, e: ir.Op) -> Signal:
        parts = [self.lower(a) for a in e.args]
        only_dense(parts, e.args, f"`{e.op}`", e)
        values = [p.value for p in parts]
        if e.op == "neg":
            return Signal(self._call(OPERATORS["neg"], tuple(values), {}, e.span, "-"))
        self._broadcast(parts, e)
        result = values[0]
        for value in values[1:]:
            result = self._call(OPERATORS[e.op], (result, value), {}, e.span, e.op)
        return Signal(result)

    def _broadcast(self, parts: list[Signal], e: ir.Op) -> None:
        """KD0502 where shapes of an operator's sides neither agree nor hold a scalar."""
        shapes = [(p, p.shape) for p in parts if p.is_tensor and p.shape]
        for (a, one), (b, two) in itertools.pairwise(shapes):
            try:
                torch.broadcast_shapes(one, two)  # type: ignore[no-untyped-call]
            except RuntimeError:
                raise self._mismatch(a, b, e) from None

    def _call_node(self, e: ir.Call) -> Signal:
        if ":" in e.function:
            return self._user_call(e)
        if e.function == "route":
            return self.routes.route(e)
        args = [self.lower(a) for a in e.args]
        if e.function not in SPARSE:
            only_dense(args, e.args, f"`{e.function}`", e)
        keywords = {n: self.lower(a).value for n, a in e.keywords.items()}
        special = getattr(self, f"_{e.function}_call", None)
        if special is not None:
            made: Signal = special(e, args, keywords)
            return made
        spec = FUNCTIONS[e.function]
        if spec.alike:
            args = self._same_classes(args, e)
            self._alike(spec, args, e)
        for param in spec.params:
            if param.at_most_classes:
                self._at_most_classes(param, args[0], e)
        if spec.over_classes and any(a.ids is not None for a in args):
            return self.routes.loss(e, args[0], args[1], keywords)
        if spec.over_classes:
            args = self._over_classes(e, args, keywords)
        node = self._call(built_in(e.function), tuple(a.value for a in args), keywords, e.span, e.function)
        return self._result(e.function, node, args)

    def _result(self, function: str, node: Any, args: list[Signal]) -> Signal:
        if function in _KEEP_ROLE:
            return replace(args[0], value=node)
        if function in ("softmax", "sigmoid") and (args[0].role == "logits" or args[0].ids is not None):
            return replace(args[0], value=node, role="probabilities")
        if function == "concat":
            return self._stacked(node, args)
        if function == "onehot":
            return replace(args[0], value=node, role="probabilities")
        return Signal(node, name=f"{function}({', '.join(a.name for a in args if a.name)})")

    def _stacked(self, node: Any, args: list[Signal]) -> Signal:
        """What `concat` gives: of scores over different classes of one data set, scores over all of these."""
        name = f"concat({', '.join(a.name for a in args if a.name)})"
        roles, sets = {a.role for a in args}, [a.classes for a in args]
        ids = [c for s in sets if s is not None for c in s[1]]
        known = {s[0] if s is not None else None for s in sets}
        if roles not in ({"logits"}, {"probabilities"}) or None in known or len(known) > 1 or len(set(ids)) < len(ids):
            return Signal(node, name=name)
        return Signal(node, args[0].role, (str(known.pop()), tuple(ids)), len(ids), name)

    def _columns_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        (x,), at = args, keywords["at"]
        if len(x.shape) < 2 or not all(0 <= i < x.shape[1] for i in at):
            limit = f"from 0 to {x.shape[1] - 1}" if len(x.shape) > 1 else "of a signal [B, C]"
            raise error("KD0243", e.span, what="`at` of `columns`", limit=limit, value=listing(map(str, at)))
        node = self._call(built_in("columns"), (x.value,), {"at": at}, e.span, "columns")
        classes = (x.classes[0], tuple(x.classes[1][i] for i in at)) if x.classes is not None else None
        return replace(x, value=node, classes=classes, count=len(at), name=f"columns({x.name})")

    def _user_call(self, e: ir.Call) -> Signal:
        path, _, name = e.function.rpartition(":")
        given = [self.lower(a) for a in [*e.args, *e.keywords.values()]]
        only_dense(given, [*e.args, *e.keywords.values()], f"`{name}`", e)
        args = tuple(self.lower(a).value for a in e.args)
        keywords = {n: self.lower(a).value for n, a in e.keywords.items()}
        return Signal(self._call(user(path, name, e.span), args, keywords, e.span, name), name=name)

    def _call(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], span: Span | None, name: str
    ) -> Any:
        try:
            return self.builder.call(fn, *args, **kwargs)
        except BuildError as problem:
            shapes = [
                dims(tuple(a.meta["val"].shape))
                for a in args
                if hasattr(a, "meta") and isinstance(a.meta["val"], Tensor)
            ]
            raise error("KD0506", span, name=name, problem=first_line(problem), shapes=listing(shapes)) from problem

    def call(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        e: ir.Expr,
        name: str,
        keywords: dict[str, Any] | None = None,
    ) -> Any:
        """A function of nodes as a node; what does not fit is told as a mistake in `e`."""
        return self._call(fn, args, keywords or {}, e.span, name)

    def call_built_in(self, name: str, args: tuple[Any, ...], e: ir.Expr) -> Any:
        """`call` of a built-in function."""
        return self._call(built_in(name), args, {}, e.span, name)

    # ---- functions with rules of their own

    def _smear_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self.routes.smear(args[0], keywords["hierarchy"], e)

    def _top_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        self._at_most_classes(next(p for p in FUNCTIONS["top"].params if p.at_most_classes), args[0], e)
        return self.routes.top(args[0], keywords["k"], e)

    def _fit_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self.adapters.fit(args[0], args[1], e.span)

    def _conv1x1_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self.adapters.conv1x1(args[0], keywords["channels"], e.span)

    def _linear_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self.adapters.linear(args[0], keywords["features"], e.span)

    def _resize_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self.adapters.resize(args[0], (keywords["size"], keywords["size"]), e.span)

    def _uniform_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        node = self._call(built_in("uniform"), (), keywords, e.span, "uniform")
        return Signal(node, "probabilities", count=keywords["classes"], name="uniform")

    def _min_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self._extreme(e, args)

    def _max_call(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> Signal:
        return self._extreme(e, args)

    def _extreme(self, e: ir.Call, args: list[Signal]) -> Signal:
        if len(args) == 1:
            return Signal(self._call(getattr(torch, e.function), (args[0].value,), {}, e.span, e.function))
        result = args[0].value
        for other in args[1:]:
            result = self._call(built_in(e.function), (result, other.value), {}, e.span, e.function)
        return Signal(result)

    def _over_classes(self, e: ir.Call, args: list[Signal], keywords: dict[str, Any]) -> list[Signal]:
        """Both sides over the same classes in the same order; probabilities become logits of themselves."""
        first, second = args
        temperature = keywords.get("temperature", 1)
        scores = args if e.function in ("kl", "kd") else args[:1]
        for place, (a, node) in enumerate(zip(scores, e.args, strict=False)):
            if a.role == "labels":
                wants = "logits or probabilities" if e.function == "kl" and place == 0 else "logits"
                names = ", ".join(p.name for p in FUNCTIONS[e.function].params[:2])
                raise error("KD0510", node.span or e.span, function=e.function, wants=wants, order=names)
        if e.function in ("kl", "kd"):
            for a, node in zip(args, e.args, strict=True):
                if a.role == "probabilities" and (temperature != 1 or e.function == "kd"):
                    raise error("KD0505", node.span or e.span, function=e.function, help=_logits_help(node))
        keep, trainee = (first, second) if second.role != "labels" else (second, first)
        try:
            order = permutation(trainee, keep)
        except LookupError:
            raise self.other_classes(first, second, e) from None
        if order is not None:
            node = self._call(_reordered, (trainee.value, order), {}, e.span, e.function)
            trained = replace(trainee, value=node, classes=keep.classes)
            first, second = (trained, second) if trainee is first else (first, trained)
        if e.function == "kl":
            first, second = (
                replace(s, value=self._call(built_in("as_logits"), (s.value,), {}, e.span, "kl"))
                if s.role == "probabilities"
                else s
                for s in (first, second)
            )
        return [first, second]

    def _same_classes(self, args: list[Signal], e: ir.Call) -> list[Signal]:
        """Two scores that are compared number by number, over the same classes in the same order."""
        if len(args) != 2 or {a.role for a in args} not in ({"logits"}, {"probabilities"}):
            return args
        first, second = args
        try:
            order = permutation(first, second)
        except LookupError:
            if first.classes is None or second.classes is None:
                return args  # other shapes, which is told as such
            raise self.other_classes(first, second, e) from None
        if order is None:
            return args
        node = self._call(_reordered, (first.value, order), {}, e.span, e.function)
        return [replace(first, value=node, classes=second.classes), second]

    def other_classes(self, a: Signal, b: Signal, e: ir.Call) -> Exception:
        """KD0503 for two signals."""

        def words(s: Signal) -> str:
            count = len(s.classes[1]) if s.classes else s.count
            of = f" of {s.classes[0]}" if s.classes else ""
            return f"{s.role if s.role != 'number' else 'numbers'} over {count} classes{of} (`{s.name}`)"

        return error("KD0503", e.span, first=words(a).capitalize(), second=words(b))

    def _alike(self, spec: Spec, args: list[Signal], e: ir.Call) -> None:
        """KD0502 where signals that are compared differ in what the function's row says."""
        convention = e.keywords.get("convention")
        default = next((p.default for p in spec.params if p.name == "convention"), "")
        what = spec.alike[str(convention.value) if isinstance(convention, ir.Const) else default]
        for a, b in zip(args[: len(args) // 2], args[len(args) // 2 :], strict=True):
            maps = len(a.shape) == len(b.shape) == 4
            if what == "shape" and a.shape != b.shape:
                raise self._mismatch(a, b, e)
            if what == "channels" and maps and a.shape[1] != b.shape[1]:
                raise self._mismatch(a, b, e, "channels")
            if what == "size" and maps and a.shape[2:] != b.shape[2:]:
                raise self._mismatch(a, b, e, "size")

    def _at_most_classes(self, param: Param, logits: Signal, e: ir.Call) -> None:
        """KD0243 where a number of classes is more than there are."""
        given = e.keywords.get(param.name)
        number = given.value if isinstance(given, ir.Const) else param.default
        assert isinstance(number, int)
        if len(logits.shape) > 1 and number > logits.shape[1]:
            what, most = f"`{param.name}` of `{e.function}`", f"at most {logits.shape[1]}"
            raise error("KD0243", given.span if given else e.span, what=what, limit=most, value=number)

    def _texts(self, a: Signal, b: Signal, e: ir.Op | ir.Call) -> tuple[str, str]:
        """How two of the arguments are written."""
        texts = [[x.span.text for x in e.args if x.span and self.memo[id(x)] is s] for s in (a, b)]
        first, second = (t[0] if t else "" for t in texts)
        return first or a.name or "one side", second or b.name or "the other"

    def _mismatch(self, a: Signal, b: Signal, e: ir.Op | ir.Call, differ: str = "") -> Exception:
        one, two = a.shape, b.shape
        first, second = self._texts(a, b, e)
        alike = len(one) == len(two) and len(one) in (2, 4)
        help = f"Write `fit({first}, like = {second})`." if alike and first != second else None
        if differ == "size" and two[2] == two[3]:
            help = f"Write `resize({first}, size = {two[2]})`."
        differ = differ or ("dimensions" if len(one) != len(two) else "channels" if one[1] != two[1] else "size")
        return error(
            "KD0502", e.span, first=first, second=second, one=shown(one), two=shown(two), differ=differ, help=help
        )


def _logits_help(node: ir.Expr) -> str:
    if isinstance(node, ir.Tap) and node.span is not None and node.span.text.endswith(".probabilities"):
        return f"Write `{node.span.text.removesuffix('probabilities')}logits`."
    return "Remove `softmax`."


def _reordered(x: Tensor, order: list[int]) -> Tensor:
    """Columns of `x` [B, C] in another order."""
    return x[:, torch.tensor(order, device=x.device)]


def first_line(problem: Exception) -> str:
    """What a library says, for the end of a sentence."""
    line = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return " ".join(line.split()).rstrip(".")


_RULES: dict[type, Callable[[Lowering, Any], Signal]] = {
    ir.Const: Lowering._const,
    ir.StepCounter: Lowering._step_counter,
    ir.StreamField: Lowering._stream,
    ir.Tap: Lowering._tap,
    ir.Op: Lowering._op,
    ir.Call: Lowering._call_node,
}
