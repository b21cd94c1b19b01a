"""What all expressions of one loss are lowered with: the plan, the phase, and the graph that is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from kdplan.diagnostics.boundary import Cause, foreign, is_users
from kdplan.diagnostics.report import PlanError, error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.graph.build import Builder, BuildError
from kdplan.graph.lines import NodeError
from kdplan.graph.signals import Signal, dims
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError
from kdplan.ir import expr as ir
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.outputs import OUTPUT_TAPS
from kdplan.ir.plan import Network, Phase, Plan


@dataclass(frozen=True)
class LossContext:
    """The plan, the phase, and the graph that is built.

    `names` gives, for each trainee's slot and each frozen version, the name under which the builder has the network.
    """

    plan: Plan
    phase: Phase
    builder: Builder
    names: dict[str, str]

    def network(self, of: ir.Version | ir.InTraining) -> Network:
        """The network that a tap is of."""
        name = self.phase.trainees[of.slot].base.network if isinstance(of, ir.InTraining) else of.network
        return self.plan.networks[name]

    def batch(self, stream: int) -> int:
        """The batch size of a stream."""
        return self.phase.recipes[0].batch_of(stream)

    def call(
        self,
        fn: Callable[..., Any],
        args: Sequence[object],
        span: Span | None,
        name: str,
        keywords: dict[str, object] | None = None,
    ) -> fx.Node:
        """A call of a function on nodes, as a node.

        Raises
        ------
        PlanError
            KD0506, with the shapes of the arguments, where the function refuses them.
        """
        try:
            node = self.builder.call(fn, *args, **keywords or {})
        except BuildError as problem:
            values = [a.meta["val"] for a in tree_leaves(list(args)) if isinstance(a, fx.Node)]
            shapes = listing(dims(tuple(v.shape)) for v in values if isinstance(v, Tensor))
            raise foreign("KD0506", span, problem, name=name, shapes=shapes) from problem
        node.meta.setdefault("span", span)
        return node

    def apply(self, builder: Builder, key: str, inputs: Sequence[Any], path: str, e: ir.Tap) -> fx.Node:
        """The node of a network's tap in a graph that `builder` builds.

        Raises
        ------
        PlanError
            KD0501 where there is no such tap, KD0508 where the network does not run on such inputs.
        """
        try:
            if e.submodule:
                return builder.apply_submodule(key, e.submodule, tuple(inputs), path, e.call)
            return builder.apply(key, tuple(inputs), path, call=e.call)
        except TapError as problem:
            raise no_tap(builder, key, inputs, path, e) from problem
        except AttributeError as problem:
            known = [n for n, _ in builder.networks[key].named_children()]
            raise error(
                "KD0501", e.span, network=key, tap=e.submodule, help=f"Choose from {listing(known)}."
            ) from problem
        except TraceError as problem:
            shapes = listing(dims(tuple(i.meta["val"].shape)) for i in inputs if hasattr(i, "meta"))
            raise foreign("KD0508", e.span, problem, network=key, shapes=shapes) from problem

    def reordered(self, x: Signal, order: list[int], e: ir.Call) -> fx.Node:
        """The columns of scores [B, C] in another order."""
        return self.call(_reordered, (x.value, order), e.span, e.function)


def at_node(problem: NodeError, phase: Phase) -> PlanError:
    """KD0508 for a node of a network, KD0506 for one of the loss, where it cannot run on fake tensors."""
    owner = str(problem.node.meta.get("owner", ""))
    if owner.startswith("net "):
        network, shapes = owner.removeprefix("net "), _shapes(problem.node)
        return foreign("KD0508", phase.span, problem, network=network, shapes=shapes)
    return at_call(problem.node, problem, phase.loss.span)


def at_call(node: fx.Node, problem: BaseException, span: Span | None = None) -> PlanError:
    """KD0506 for a function that does not run on its arguments; `span` is for nodes that have none."""
    name = getattr(node.target, "__name__", str(node.target))
    return foreign("KD0506", node.meta.get("span") or span, problem, name=name, shapes=_shapes(node))


def _shapes(node: fx.Node) -> str:
    values = [a.meta["val"] for a in node.all_input_nodes]
    return listing(dims(tuple(v.shape)) for v in values if isinstance(v, Tensor))


def no_tap(builder: Builder, key: str, inputs: Sequence[Any], path: str, e: ir.Tap) -> PlanError:
    """KD0501: the network has no tap `path`."""
    known = builder.taps(key, tuple(inputs), e.submodule)
    if "output" not in known:
        return _no_output(builder, key, inputs, e)
    top = [t for t in known if "." not in t and "#" not in t and t not in OUTPUT_TAPS]
    depth = path.count(".")
    near = nearest(path, [t for t in known if t.count(".") == depth])
    help = f"Did you mean `{near}`? " if near else ""
    rest, _, method = path.rpartition(".")
    if method in FUNCTIONS and rest:
        help = f"Write `{method}({key}.{rest})` for the function. "
    inside = [t for t in known if t.startswith((f"{path}.", f"{path}["))]
    if inside:
        help = f"Write one of its parts: {listing(inside, 4)}. "
    taps = listing([*top, "logits", "features"], 20)
    return error("KD0501", e.span, network=key, tap=path, help=f"{help}Choose from {taps}.")


def _no_output(builder: Builder, key: str, inputs: Sequence[Any], e: ir.Tap) -> PlanError:
    """KD0549: the network, or its part, returns no tensor."""
    module = builder.networks[key].get_submodule(e.submodule)
    forward = type(module).forward
    code = getattr(forward, "__code__", None)
    file, line = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)
    notes = Cause("", "", file, line, what="its `forward`").notes if is_users(file) else []
    return error("KD0549", e.span, network=key, notes=notes)


def _reordered(x: Tensor, order: list[int]) -> Tensor:
    """Columns of `x` [B, C] in another order."""
    return x[:, torch.tensor(order, device=x.device)]
