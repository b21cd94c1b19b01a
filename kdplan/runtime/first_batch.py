"""The first batch of a run, computed as a step does it and with the users' networks as they are: both must be equal."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.application import NotCalled
from kdplan.graph.fake import whole
from kdplan.graph.kept import Kept, code_of
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.graph.plain_form import PlainForm
from kdplan.graph.state import Attributes, is_write, written_buffer
from kdplan.ir.plan import Recipe
from kdplan.nn.whose import is_users
from kdplan.runtime.gpu.arithmetic import frozen_precision

Outputs = Mapping[str, Tensor]
FULL, COMPILED, HALF = 1e-3, 1e-2, 5e-2
"""How far the two may be from each other: in fp32, also compiled, and in half precision."""
SMALLEST = 1e-2
"""Part of the largest gradient: one that is smaller is compared as if it were so large, since it may be rounding."""


class Differs(Exception):
    """A graph gives something else on the first batch than the networks themselves.

    Attributes
    ----------
    whole
        Slots and versions, as strings, of the networks that must be called whole -> why.
    """

    def __init__(self, whole: dict[str, str]) -> None:
        super().__init__("; ".join(whole.values()))
        self.whole = whole


@dataclass(frozen=True)
class _Seen:
    """What a step leaves: values, gradients of trained parameters, buffers, the state of generators, and what the
    user's code gave.
    """

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor | None]
    draws: list[Any]
    calls: dict[str, list[Tensor]]


class FirstBatch:
    """Compares the two forms of a phase in one step; `of` makes it where there is something to compare.

    Parameters
    ----------
    graph : PhaseGraph
        On its device.
    tolerance : float
        Of differences, relative to the largest number of a tensor.
    seed : callable
        Sets all generators as at the beginning of the step.
    span : Span or None
        Of the loss.
    """

    def __init__(self, graph: PhaseGraph, tolerance: float, seed: Callable[[], None], span: Span | None) -> None:
        assert graph.plain is not None
        self.graph, self.form, self.tolerance, self.seed, self.span = graph, graph.plain, tolerance, seed, span

    @staticmethod
    def of(graph: PhaseGraph, recipe: Recipe, seed: Callable[[], None], span: Span | None) -> FirstBatch | None:
        """What compares the first step of a phase.

        None where no user's network stands in it as a graph, and no user's function is called.
        """
        if graph.plain is None or not (graph.plain.networks or graph.plain.functions):
            return None
        exact = recipe.precision == frozen_precision(recipe) == "fp32"
        return FirstBatch(graph, (COMPILED if recipe.compile is True else FULL) if exact else HALF, seed, span)

    def expect(self, step: Callable[[PlainForm], Outputs]) -> bool:
        """Do a step in plain form and put all back; False where there is not enough memory for it.

        Raises
        ------
        Differs
            If a network does not call a part that its graph calls.
        """
        self.start, self.step = _Start(self.graph, self.form), step
        try:
            self.expected = self._plain()
        except torch.OutOfMemoryError:
            return False
        except NotCalled as problem:
            raise self._differs(
                f"its graph calls `{problem}`, which `forward` does not call", self.form.networks
            ) from None
        return True

    def compare(self, outputs: Outputs) -> bool:
        """Compare with what the graph's own step has left; False where that is put back, and is to be done again.

        Raises
        ------
        Differs
        PlanError
            KD0542 where a network or function differs from itself.
        """
        kinds = self._differing(self._seen(outputs))
        if not kinds:
            return True
        self._start_again()
        names = self._names(kinds)
        again = self._plain()
        unstable = self._differing(again)
        if not unstable and not names:
            again = self._plain()  # every other call of a function may agree
            unstable = self._differing(again)
        what = listing(kinds).replace("`", "")
        if names and not unstable:
            raise self._differs(f"its graph gives other {what} on the first batch", names)
        if unstable and next(iter(self.expected.outputs.values())).device.type == "cpu":
            calls = zip(self.expected.calls.items(), again.calls.values(), strict=True)
            blamed = [self.form.name_of(node) for (node, one), other in calls if not _same_tensors(one, other)][:1]
            raise error("KD0542", self.span, name=listing(blamed or names, 5).replace("`", ""), what=what)
        return False  # the device's own operations, or compiled code, round in another way

    def _differs(self, reason: str, names: Mapping[str, object] | list[str]) -> Differs:
        return Differs({label: reason for name in names for label in self.graph.labels[name]})

    def _plain(self) -> _Seen:
        """What a step in plain form leaves; afterwards all is as before."""
        try:
            return self._seen(self.step(self.form))
        finally:
            self._start_again()

    def _start_again(self) -> None:
        self.start.restore()
        for parameter in self.graph.named_trainable().values():
            parameter.grad = None
        self.seed()

    def _seen(self, outputs: Outputs) -> _Seen:
        return _Seen(
            {name: value.detach() for name, value in outputs.items()},
            {name: p.grad for name, p in self.graph.named_trainable().items()},
            {name: b.clone() if b is not None else None for name, b in _buffers(self.form).items()},
            draws(),
            self.form.seen,
        )

    def _differing(self, seen: _Seen) -> dict[str, list[str]]:
        """What differs from what is expected: kinds, with the names of values."""
        expected = self.expected
        kinds = {
            "outputs": _far(expected.outputs, seen.outputs, self.tolerance),
            "gradients": _far(expected.gradients, seen.gradients, self.tolerance, SMALLEST),
            "buffers": _far(expected.buffers, seen.buffers, self.tolerance),
            "draws of random numbers": [] if same_draws(expected.draws, seen.draws) else ["all"],
        }
        return {kind: names for kind, names in kinds.items() if names}

    def _names(self, kinds: Mapping[str, list[str]]) -> list[str]:
        """The networks to which what differs belongs; all of them where nothing says which."""
        named = self.graph.named_trainable()
        differing = {id(named[name]) for name in kinds.get("gradients", ())}
        buffers = _buffers(self.form)
        differing |= {id(buffers.get(name)) for name in kinds.get("buffers", ())}
        own = {
            name: {id(t) for t in (*net.parameters(), *net.buffers())} & differing
            for name, net in self.form.networks.items()
        }
        return [name for name, ids in own.items() if ids] or list(own)


class _Start:
    """All that a step may change, as it is now."""

    def __init__(self, graph: PhaseGraph, form: PlainForm) -> None:
        modules = list({id(m): m for m in (graph.root, *graph.networks)}.values())
        networks = [net for net in graph.root.get_submodule("nets").children() if is_users(net)]
        self.kept = Kept(*(f for net in networks for f in code_of(net)), *(n.target for n in form.functions))
        self.attributes = [Attributes(net) for net in networks]
        held = {id(b): b for m in modules for b in m.buffers()}
        held |= {id(p): p for net in networks for p in net.parameters()}  # a `forward` may write into them
        self.tensors = [(t, t.detach().clone()) for t in held.values()]

    def restore(self) -> None:
        """Put it back."""
        self.kept.restore()
        for attributes in self.attributes:
            attributes.restore()
        with torch.no_grad():
            for tensor, value in self.tensors:
                tensor.copy_(value)


def _buffers(form: PlainForm) -> dict[str, Tensor | None]:
    """The buffers that the graph reads or writes: others are of parts that it leaves out."""
    held: dict[str, Tensor | None] = {}
    for node in form.root.graph.nodes:
        if node.op == "call_module":
            module = whole(form.root.get_submodule(str(node.target)))
            held |= {f"{node.target}.{name}": b for name, b in module.named_buffers()}
        elif node.op == "get_attr" or is_write(node):
            name = written_buffer(node) if is_write(node) else str(node.target)
            value = operator.attrgetter(name)(form.root)
            if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                held[name] = value
    return held


def draws() -> list[Any]:
    """The states of all generators."""
    states: list[Any] = [torch.default_generator.get_state(), random.getstate(), *np.random.get_state()]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states.append(torch.cuda.get_rng_state())
    return states


def same_draws(one: list[Any], other: list[Any]) -> bool:
    """Whether two states of all generators are the same."""
    return len(one) == len(other) and all(
        torch.equal(a, b) if isinstance(a, Tensor) else np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        for a, b in zip(one, other, strict=True)
    )


def _same_tensors(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(
        a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in zip(one, other, strict=True)
    )


def _far(
    expected: Mapping[str, Tensor | None], seen: Mapping[str, Tensor | None], tolerance: float, least: float = 0.0
) -> list[str]:
    """Names of tensors that differ, relative to their largest number; of small ones to a part of the largest of all.

    >>> one, other = ({"a": torch.ones(2), "b": torch.full((1,), v), "c": None} for v in (0.0, 1e-6))
    >>> _far(one, other, 1e-3), _far(one, other, 1e-3, 1e-2)
    (['b'], [])
    """
    names = [
        name for name in expected.keys() | seen.keys() if expected.get(name) is not None or seen.get(name) is not None
    ]
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    far: list[str] = []
    for name in names:
        a, b = expected.get(name), seen.get(name)
        if a is None or b is None or (a.shape, a.dtype) != (b.shape, b.dtype):
            far.append(name)
        elif not (a.is_floating_point() or a.is_complex()):
            far += [] if torch.equal(a, b) else [name]
        elif a.numel():
            pairs[name] = (a.detach(), b.detach())
    if not pairs:
        return far
    ones, others = [a for a, _ in pairs.values()], [b for _, b in pairs.values()]
    sizes = torch.stack([n.float() for n in torch._foreach_norm(ones, float("inf"))]).tolist()
    apart = torch.stack(
        [n.float() for n in torch._foreach_norm(torch._foreach_sub(ones, others), float("inf"))]
    ).tolist()
    largest = least * max((s for s in sizes if math.isfinite(s)), default=0.0)
    for (name, (a, b)), size, distance in zip(pairs.items(), sizes, apart, strict=True):
        if not distance <= tolerance * max(size, largest):
            finite = math.isfinite(distance) and math.isfinite(size)
            if finite or not torch.allclose(a, b, rtol=tolerance, atol=0, equal_nan=True):
                far.append(name)
    return far
