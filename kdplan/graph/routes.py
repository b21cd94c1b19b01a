'''One signal of several networks: each sample runs through the network that its label chooses (`route`).

>>> from pathlib import Path
>>> from kdplan.compile import compile_source, inspect
>>> from kdplan.diagnostics.span import Source
>>> from kdplan.graph.diagram import diagram
>>> text = """
... data digits = digits
... recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
... verticals V of digits { low = 0..4  high = 5..9 }
... teacher t[v in V] = digits_net(classes = v, width = 2) {
...   phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
... }
... student small = digits_net(width = 2)
... phase kc of upto(small.layer1) on digits with quick { loss = mse(small.layer1, route(V, labels, t[*].layer1)) }
... """
>>> gm = inspect(compile_source(Source("plan.kd", text), Path(".")))["kc"].joined.graph_module
>>> print(diagram(graph=[n for n in gm.graph.nodes if not str(n.meta.get("owner")).startswith("net")]))
graph
inputs_0 = input
labels_0 = input
inside_route_layer1 = inside.route_layer1(labels_0, inputs_0)
mse = mse(small_layer1_0_relu, inside_route_layer1)
return loss=mse
>>> routed = gm.get_submodule("inside.route_layer1")
>>> print(diagram(member=routed.members[0].graph))
member
x0 = input
t_v_low_train_stem_conv = nets.t_v_low_train.stem.conv(x0)
t_v_low_train_stem_bn = nets.t_v_low_train.stem.bn(t_v_low_train_stem_conv)
t_v_low_train_stem_relu = nets.t_v_low_train.stem.relu(t_v_low_train_stem_bn)
t_v_low_train_layer1_0_conv = nets.t_v_low_train.layer1.0.conv(t_v_low_train_stem_relu)
t_v_low_train_layer1_0_bn = nets.t_v_low_train.layer1.0.bn(t_v_low_train_layer1_0_conv)
t_v_low_train_layer1_0_relu = nets.t_v_low_train.layer1.0.relu(t_v_low_train_layer1_0_bn)
return out=t_v_low_train_layer1_0_relu
'''

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import counted, error, listing
from kdplan.graph.build import Builder
from kdplan.graph.functions import built_in
from kdplan.graph.loss_context import LossContext
from kdplan.graph.prune import prune
from kdplan.graph.signals import Signal, class_set, shown
from kdplan.graph.sparse_signals import only_dense
from kdplan.ir import expr as ir
from kdplan.ir.outputs import PROBABILITIES, canonical, is_output, is_scores
from kdplan.nn.outputs import Scores
from kdplan.nn.routed import Routed


@dataclass
class Routes:
    """Lowers `route`; equal routes run once."""

    context: LossContext
    signals: dict[Hashable, Signal] = field(default_factory=dict)

    def route(self, e: ir.Call, lower: Callable[[ir.Expr], Signal]) -> Signal:
        """One signal from several networks; `lower` gives the signals of its labels and of the networks' inputs.

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
        given = lower(labels)
        if given.role != "labels" or given.classes is None:
            raise error("KD0531", labels.span or e.span, problem="the first signal must be the labels of a stream")
        inputs = [lower(i) for i in taps[0].inputs]
        only_dense(inputs, taps[0].inputs, "a network", e)
        if any([lower(i).value for i in t.inputs] != [i.value for i in inputs] for t in taps):
            raise error("KD0531", e.span, problem="the networks must be applied to the same signals")
        first = taps[0]
        key = (given.value, *[str(t.of) for t in taps], first.submodule, canonical(first.path),
               *[i.value for i in inputs], repr(sets))  # fmt: skip
        if key not in self.signals:
            self.signals[key] = self._routed(e, taps, sets, given, inputs)
        signal = self.signals[key]
        if first.path != PROBABILITIES:
            return signal
        node = self.context.call(built_in("softmax"), (signal.value,), e.span, "softmax")
        return replace(signal, value=node, role="probabilities")

    def _taps(self, nodes: list[ir.Expr], count: int, e: ir.Call) -> list[ir.Tap]:
        taps = [n for n in nodes if isinstance(n, ir.Tap)]
        problem = ""
        if len(taps) < len(nodes):
            problem = "the choices must be taps of networks, such as `big.logits`"
        elif len(taps) != count:
            problem = f"there are {counted(count, 'part')} and {counted(len(taps), 'network')}"
        elif any(isinstance(t.of, ir.InTraining) for t in taps):
            problem = "the networks must be frozen, and this phase trains one of them"
        elif len({(canonical(t.path), t.submodule) for t in taps}) > 1:
            problem = "all of the networks must have the same tap"
        if problem:
            raise error("KD0531", e.span, problem=problem)
        return taps

    def _routed(
        self, e: ir.Call, taps: list[ir.Tap], sets: list[list[int]], labels: Signal, inputs: list[Signal]
    ) -> Signal:
        part_of = self._part_of(sets, labels, e)
        path = "output" if is_scores(taps[0].path) else taps[0].path
        scores = path == "output" and not taps[0].submodule
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
        node = self.context.builder.routed(name, module, labels.value, *[i.value for i in inputs])
        if tables is None:
            classes = own[0] if own is not None else None
            count = shapes[0][1] if own is not None else None
            return Signal(node, "logits" if scores else "features", classes, count, name)
        assert own is not None
        every = tuple(sorted({i for _, ids in own for i in ids}))
        values, ids = (self.context.builder.part(node, i) for i in (0, 1))
        return Signal(values, "logits", (own[0][0], every), None, name, ids=ids)

    def _part_of(self, sets: list[list[int]], labels: Signal, e: ir.Call) -> list[int]:
        """For each label of the stream the part that its class is in."""
        assert labels.classes is not None
        parts: dict[int, list[int]] = {}
        for i, ids in enumerate(sets):
            for c in ids:
                parts.setdefault(c, []).append(i)
        names = self.context.plan.data[labels.classes[0]].classes
        lost = [names[c] for c in labels.classes[1] if c not in parts]
        if lost:
            raise error("KD0532", e.span, what="in no part", classes=listing(lost))
        twice = [names[c] for c in labels.classes[1] if len(set(parts[c])) > 1]
        if twice:
            raise error("KD0532", e.span, what="in several parts", classes=listing(twice))
        return [parts[c][0] for c in labels.classes[1]]

    def _member(self, tap: ir.Tap, path: str, inputs: list[Signal]) -> tuple[nn.Module, tuple[int, ...]]:
        """A network up to its tap as a module of its own, and the shape of what it gives for the whole batch."""
        outer = self.context.builder
        key = self.context.names[str(tap.of)]
        module = outer.networks[key]
        inner = Builder()
        nodes = [inner.input(f"x{i}", _example(s.tensor)) for i, s in enumerate(inputs)]
        inner.network(key, module)
        try:
            output = self.context.apply(inner, key, nodes, path, tap)
            shape = tuple(output.meta["val"].shape)
            joined = inner.finish({"out": output})
        except AttributeError:
            raise error("KD0531", tap.span, problem="the tapped value must be a tensor") from None
        batch = inputs[0].shape[0]
        if all(joined.holds_at(n) for n in {1, 2, batch}):
            return prune(joined.graph_module).graph_module, shape
        if is_output(path) and not tap.submodule:
            return Scores(module), shape  # its control flow asks for the batch size, so it runs as it is
        problem = f"`{key}` reads the number of samples, so only its output can be tapped"
        raise error("KD0531", tap.span, problem=problem)

    def _classes(self, tap: ir.Tap, part: list[int], width: int, data: str, e: ir.Call) -> tuple[str, tuple[int, ...]]:
        """What a member's scores are over; one that does not say it is over its part, or over all classes."""
        assert isinstance(tap.of, ir.Version)
        network = self.context.plan.networks[tap.of.network]
        known = class_set(network.classes)
        count = len(self.context.plan.data[data].classes)
        if known is None and width in (len(part), count):
            return data, tuple(part) if width == len(part) else tuple(range(count))
        if known is not None and known[0] == data and (set(known[1]) == set(part) or len(known[1]) == count):
            return known
        missing = sorted(set(part) - set(known[1])) if known is not None else []
        names = self.context.plan.data[data].classes
        lacks = f" It lacks {listing(names[c] for c in missing)}." if missing else ""
        raise error("KD0533", tap.span or e.span, network=tap.of.network, count=width,
                    part=counted(len(part), "class", "classes"), lacks=lacks)  # fmt: skip


def _example(held: Tensor) -> Tensor:
    """Zeros like a fake tensor, without memory."""
    return torch.empty(held.shape, dtype=held.dtype, device="meta")
