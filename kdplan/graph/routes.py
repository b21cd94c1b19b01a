"""Signals that each sample takes from its own network, and sparse targets: how `route` and `top` become nodes.

A sparse signal is two nodes: scores ``[B, K]`` and, as `Signal.ids`, the classes that they belong to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import counted, error, listing
from kdplan.graph.build import Builder
from kdplan.graph.prune import prune
from kdplan.graph.signals import Signal, class_set, shown
from kdplan.ir import expr as ir
from kdplan.nn import sparse
from kdplan.nn.routed import Routed

if TYPE_CHECKING:
    from kdplan.graph.loss import Lowering

SPARSE = frozenset({"top", "sigmoid", "softmax", "detach", "sigmoid_cross_entropy", "cross_entropy"})
"""Functions that take sparse signals."""
_OUTPUTS = ("", "logits", "probabilities")


def only_dense(parts: Sequence[Signal], nodes: Sequence[ir.Expr], what: str, e: ir.Expr) -> None:
    """KD0530 where a sparse signal stands among arguments that must be dense."""
    for part, node in zip(parts, nodes, strict=False):
        if part.ids is not None:
            raise error("KD0530", node.span or e.span, what=what)


@dataclass
class Routes:
    """Lowers `route` and what reads it; equal routes run once."""

    lowering: Lowering
    made: dict[Any, Signal] = field(default_factory=dict)

    # ---- route

    def route(self, e: ir.Call) -> Signal:
        """One signal from several networks.

        Raises
        ------
        PlanError
            KD0531 for members that cannot be chosen by label, KD0532 for labels without a part or with several,
            KD0533 for a network over other classes than its part, KD0534 for values of several shapes.
        """
        parts = e.keywords["parts"]
        assert isinstance(parts, ir.Const) and isinstance(parts.value, list)
        sets: list[list[int]] = parts.value
        labels, *nodes = e.args
        taps = self._taps(nodes, len(sets), e)
        given = self.lowering.lower(labels)
        if given.role != "labels" or given.classes is None:
            raise error("KD0531", labels.span or e.span, problem="the first signal must be the labels of a stream")
        inputs = [self.lowering.lower(i) for i in taps[0].inputs]
        only_dense(inputs, taps[0].inputs, "a network", e)
        if any([self.lowering.lower(i).value for i in t.inputs] != [i.value for i in inputs] for t in taps):
            raise error("KD0531", e.span, problem="the networks must be applied to the same signals")
        first = taps[0]
        key = (given.value, *[str(t.of) for t in taps], first.submodule, first.path == "probabilities" or first.path,
               *[i.value for i in inputs], repr(sets))  # fmt: skip
        if key not in self.made:
            self.made[key] = self._routed(e, taps, sets, given, inputs)
        found = self.made[key]
        if first.path != "probabilities":
            return found
        node = self.lowering.call_built_in("softmax", (found.value,), e)
        return replace(found, value=node, role="probabilities")

    def _taps(self, nodes: list[ir.Expr], count: int, e: ir.Call) -> list[ir.Tap]:
        taps = [n for n in nodes if isinstance(n, ir.Tap)]
        problem = ""
        if len(taps) < len(nodes):
            problem = "the choices must be taps of networks, such as `big.logits`"
        elif len(taps) != count:
            problem = f"there are {counted(count, 'part')} and {counted(len(taps), 'network')}"
        elif any(isinstance(t.of, ir.InTraining) for t in taps):
            problem = "the networks must be frozen, and this phase trains one of them"
        elif len({(t.path, t.submodule) for t in taps}) > 1:
            problem = "all of the networks must have the same tap"
        if problem:
            raise error("KD0531", e.span, problem=problem)
        return taps

    def _routed(
        self, e: ir.Call, taps: list[ir.Tap], sets: list[list[int]], labels: Signal, inputs: list[Signal]
    ) -> Signal:
        part_of = self._part_of(sets, labels, e)
        path = "logits" if taps[0].path == "probabilities" else taps[0].path or "output"
        scores = taps[0].path in _OUTPUTS and not taps[0].submodule
        members = [self._member(t, path, inputs) for t in taps]
        shapes = [shape for _, shape in members]
        own: list[tuple[str, tuple[int, ...]]] | None = None
        if scores and all(len(s) == 2 for s in shapes):
            assert labels.classes is not None
            own = [self._classes(t, ids, s[1], labels.classes[0], e)
                   for t, ids, s in zip(taps, sets, shapes, strict=True)]  # fmt: skip
        same = own is not None and len(set(own)) == 1
        if len({s[1:] for s in shapes}) > 1 and (own is None or same):
            raise error("KD0534", e.span, shapes=listing(dict.fromkeys(shown(s) for s in shapes)))
        tables = [list(ids) for _, ids in own] if own is not None and not same else None
        name = f"route {path}"
        module = Routed([m for m, _ in members], part_of, tables)
        node = self.lowering.builder.routed(name, module, labels.value, *[i.value for i in inputs])
        if tables is None:
            classes = own[0] if own is not None else None
            count = shapes[0][1] if own is not None else None
            return Signal(node, "logits" if scores else "features", classes, count, name)
        assert own is not None
        every = tuple(sorted({i for _, ids in own for i in ids}))
        values, ids = (self.lowering.builder.part(node, i) for i in (0, 1))
        return Signal(values, "logits", (own[0][0], every), None, name, ids=ids)

    def _part_of(self, sets: list[list[int]], labels: Signal, e: ir.Call) -> list[int]:
        """For each label of the stream the part that its class is in."""
        assert labels.classes is not None
        parts: dict[int, list[int]] = {}
        for i, ids in enumerate(sets):
            for c in ids:
                parts.setdefault(c, []).append(i)
        names = self.lowering.plan.data[labels.classes[0]].classes
        lost = [names[c] for c in labels.classes[1] if c not in parts]
        if lost:
            raise error("KD0532", e.span, what="in no part", classes=listing(lost))
        twice = [names[c] for c in labels.classes[1] if len(set(parts[c])) > 1]
        if twice:
            raise error("KD0532", e.span, what="in several parts", classes=listing(twice))
        return [parts[c][0] for c in labels.classes[1]]

    def _member(self, tap: ir.Tap, path: str, inputs: list[Signal]) -> tuple[nn.Module, tuple[int, ...]]:
        """A network up to its tap as a module of its own, and the shape of what it gives for the whole batch."""
        outer = self.lowering.builder
        key = self.lowering.names[str(tap.of)]
        module = outer.networks[key]
        inner = Builder()
        nodes = [inner.input(f"x{i}", _example(s.tensor)) for i, s in enumerate(inputs)]
        inner.network(key, module)
        try:
            found = self.lowering.apply_in(inner, key, nodes, path, tap)
            shape = tuple(found.meta["val"].shape)
            joined = inner.finish({"out": found})
        except AttributeError:
            raise error("KD0531", tap.span, problem="the tapped value must be a tensor") from None
        batch = inputs[0].shape[0]
        if all(joined.holds_at(n) for n in {1, 2, batch}):
            return prune(joined.graph_module).graph_module, shape
        if path in ("output", "logits") and not tap.submodule:
            return module, shape  # its control flow asks for the batch size, so it runs as it is
        problem = f"`{key}` reads the number of samples, so only its output can be tapped"
        raise error("KD0531", tap.span, problem=problem)

    def _classes(self, tap: ir.Tap, part: list[int], width: int, data: str, e: ir.Call) -> tuple[str, tuple[int, ...]]:
        """What a member's scores are over; one that does not say it is over its part, or over all classes."""
        assert isinstance(tap.of, ir.Version)
        network = self.lowering.plan.networks[tap.of.network]
        known = class_set(network.classes)
        count = len(self.lowering.plan.data[data].classes)
        if known is None and width in (len(part), count):
            return data, tuple(part) if width == len(part) else tuple(range(count))
        if known is not None and known[0] == data and (set(known[1]) == set(part) or len(known[1]) == count):
            return known
        missing = sorted(set(part) - set(known[1])) if known is not None else []
        names = self.lowering.plan.data[data].classes
        lacks = f" It lacks {listing(names[c] for c in missing)}." if missing else ""
        raise error("KD0533", tap.span or e.span, network=tap.of.network, count=width,
                    part=counted(len(part), "class", "classes"), lacks=lacks)  # fmt: skip

    # ---- top, and losses

    def top(self, x: Signal, k: int, e: ir.Call) -> Signal:
        """The k largest scores of each sample, sparse."""
        if len(x.shape) != 2:
            raise error(
                "KD0506",
                e.span,
                name="top",
                problem="it takes one row of scores for each sample",
                shapes=shown(x.shape),
            )
        args = (x.value, k) if x.ids is None else (x.value, k, x.ids)
        node = self.lowering.call(sparse.top, args, e, "top")
        values, ids = (self.lowering.builder.part(node, i) for i in (0, 1))
        if x.ids is None and x.classes is not None and x.classes[1] != tuple(range(len(x.classes[1]))):
            ids = self._looked_up(ids, torch.tensor(x.classes[1]), e)
        return replace(x, value=values, ids=ids, name=f"top({x.name})")

    def smear(self, labels: Signal, table: list[list[int]], e: ir.Call) -> Signal:
        """Labels and the classes above them, as sparse targets of 1.

        Raises
        ------
        PlanError
            KD0284 for what is no labels.
        """
        if labels.role != "labels" or labels.classes is None:
            raise error("KD0284", e.args[0].span or e.span, name="smear")
        own = set(labels.classes[1])
        above = {row[0]: [c for c in row[1:] if c in own] for row in table}
        rows = [[c, *above.get(c, [])] for c in labels.classes[1]]
        width = max(map(len, rows))
        held = torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
        ids = self.lowering.call(_rows, (self.lowering.builder.constant(held), labels.value), e, "smear")
        values = self.lowering.call(_known, (ids,), e, "smear")
        return Signal(values, "probabilities", labels.classes, None, "smear(labels)", ids=ids)

    def loss(self, e: ir.Call, logits: Signal, targets: Signal, keywords: dict[str, Any]) -> Signal:
        """`cross_entropy` and `sigmoid_cross_entropy` against sparse targets.

        Raises
        ------
        PlanError
            KD0535 for logits as targets, KD0503 for targets of classes that the logits lack.
        """
        if logits.ids is not None:
            raise error("KD0530", e.args[0].span or e.span, what=f"The first argument of `{e.function}`")
        if targets.role != "probabilities":
            right = "sigmoid" if e.function == "sigmoid_cross_entropy" else "softmax"
            raise error("KD0535", e.args[1].span or e.span, function=e.function, right=right)
        ids = self._columns(e, logits, targets)
        fn = getattr(sparse, e.function)
        return Signal(self.lowering.call(fn, (logits.value, targets.value, ids), e, e.function, keywords))

    def _columns(self, e: ir.Call, logits: Signal, targets: Signal) -> Any:
        """The targets' classes as columns of the logits."""
        own, given = logits.classes, targets.classes
        if own is None or given is None or own[0] != given[0]:
            one = logits.count if own is None else len(own[1])
            two = targets.count if given is None else len(self.lowering.plan.data[given[0]].classes)
            if one is not None and two is not None and one != two:
                raise self.lowering.other_classes(logits, targets, e)
            return targets.ids
        if not set(given[1]) <= set(own[1]):
            raise self.lowering.other_classes(logits, targets, e)
        count = len(self.lowering.plan.data[own[0]].classes)
        if own[1] == tuple(range(count)):
            return targets.ids
        table = torch.full((count,), -1)
        table[torch.tensor(own[1])] = torch.arange(len(own[1]))
        return self._looked_up(targets.ids, table, e)

    def _looked_up(self, ids: Any, table: Tensor, e: ir.Call) -> Any:
        """`table[ids]`; -1 stays -1."""
        constant = self.lowering.builder.constant(torch.cat([table, torch.tensor([-1])]))
        return self.lowering.call(torch.take, (constant, ids), e, e.function)


def _rows(table: Tensor, labels: Tensor) -> Tensor:
    """Rows of a table [C, D] for labels [B]."""
    return table.index_select(0, labels.long())


def _known(ids: Tensor) -> Tensor:
    """1 for each class, 0 for padding."""
    return (ids >= 0).float()


def _example(held: Tensor) -> Tensor:
    """Zeros like a fake tensor, without memory."""
    return torch.empty(held.shape, dtype=held.dtype, device="meta")
