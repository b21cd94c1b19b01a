"""Two steps of a network or function of the user, as it is and as its graph, from one state on real numbers.

>>> from torch import nn
>>> compare(nn.Linear(3, 2), (torch.ones(4, 3),))
Verdict(differs='', unstable='', leaves=(), attributes=(), kept=(), lost='', transient=(), broken='', untrained=())
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from kdplan.diagnostics.boundary import ForeignError, is_foreign, is_of_kernels, is_of_types
from kdplan.diagnostics.report import listing
from kdplan.graph.build import Builder
from kdplan.graph.copied import copied
from kdplan.graph.kept import functions_of, undone
from kdplan.graph.module import make
from kdplan.graph.prune import prune
from kdplan.graph.state import Attributes, carry, draws_undone
from kdplan.graph.structure import with_tensors
from kdplan.graph.survives import survives
from kdplan.graph.trace import TraceError, trace
from kdplan.graph.uncompiled import uncompiled
from kdplan.nn.extra_state import has_extra
from kdplan.nn.outputs import leaves as leaves_of

STEPS = 2


@dataclass(frozen=True)
class Verdict:
    """What two steps showed.

    Attributes
    ----------
    differs
        What the graph computes differently; "" for nothing.
    unstable
        What differs between two plain runs from one state; "" for nothing.
    leaves
        Paths of parts that are called whole, each with the reason.
    attributes
        Python attributes that `forward` changes, each with its first value.
    kept
        What else the code changes outside of networks: globals, closures, attributes of functions.
    lost
        What differs in the second step where only weights and buffers come from the first; "" for nothing.
    transient
        Buffers that change and are registered as not persistent: no version has them.
    broken
        What is no number although the inputs are, whatever they are: `value` or `gradient`; "" for neither.
    untrained
        Parameters that a function keeps and that have a gradient, which no phase trains.
    """

    differs: str = ""
    unstable: str = ""
    leaves: tuple[tuple[str, str], ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    kept: tuple[str, ...] = ()
    lost: str = ""
    transient: tuple[str, ...] = ()
    broken: str = ""
    untrained: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """The verdict as plain values, for the store."""
        return asdict(self)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Verdict | None:
        """The inverse of `plain`; None for what another version wrote.

        >>> verdict = Verdict("outputs", leaves=(("body", "it counts"),))
        >>> Verdict.of({**verdict.plain(), "leaves": [["body", "it counts"]]}) == verdict
        True
        """
        if values.keys() != {f.name for f in fields(Verdict)}:
            return None
        pairs = {name: tuple((a, b) for a, b in values[name]) for name in ("leaves", "attributes")}
        return Verdict(**{**values, **pairs, **{n: (*values[n],) for n in ("kept", "transient", "untrained")}})


class Fatal(RuntimeError):
    """Making a graph ends the process."""


class WrongTypes(ForeignError):
    """Code does not run on values of such data types, whatever they are. Fake tensors do not show it."""


class NoGradient(ForeignError):
    """The backward pass of a network fails, from whichever of its outputs."""


def compare(module: nn.Module, inputs: Sequence[Tensor], half: bool = False, first_trace: bool = False) -> Verdict:
    """Run a module twice as it is and once as its graph, each for two steps from one state.

    A first trace is tried in a child of this process.

    A module that does not run on such inputs has an empty verdict: whoever builds the phase reports that.

    Raises
    ------
    WrongTypes
        If operations meet data types that do not go together.
    NoGradient
        If the backward pass fails, whichever outputs a loss uses.
    """
    try:
        first, second, resumed, traced = (copied(module) for _ in range(4))
    except BaseException as problem:
        if not is_foreign(problem):
            raise
        return Verdict()
    attributes = Attributes(first)
    values = {n: _shown(v) for m in first.modules() for n, v in vars(m).items()}
    leaves: dict[str, str] = {}

    def graph() -> nn.Module:
        if first_trace and not survives(lambda: trace(traced, *inputs)):
            raise Fatal("tracing it ends the process")
        result = trace(traced, *inputs)
        leaves.update(result.leaves)
        return make(result.root, result.graph)

    def called(net: nn.Module) -> Callable[[int], Any]:
        return lambda step: net(*(_input(v, step) for v in inputs))

    verdict = _compare(
        functions_of(module),
        (called(first), first),
        (called(second), second),
        (lambda: called(graph()), traced),
        half,
        (called(resumed), resumed),
    )
    lost = [n for n in attributes.changed() if verdict.lost or not has_extra(first.get_submodule(n.rpartition(".")[0]))]
    changed = tuple((n, values[n.rpartition(".")[2]]) for n in lost)
    stored, start = first.state_dict().keys(), dict(module.named_buffers())
    written = [n for n, b in first.named_buffers() if n not in stored and not _equal(b, start.get(n))]
    if verdict.broken and first_trace and all(map(_is_floating, inputs)):
        verdict = replace(verdict, broken=compare(module, [v.abs() for v in inputs], half).broken)
    return replace(verdict, leaves=tuple(leaves.items()), attributes=changed, transient=tuple(written))


def compare_call(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    half: bool = False,
    real: bool = False,
    gradients: bool = True,
) -> Verdict:
    """The same for a call of a function, whose tensors are its state: gradients are those of its arguments.

    `real` says whether the arguments are those of training; else they are made up, and what is no number on them is so
    only where it is none on positive ones either. Without `gradients` the arguments are frozen values.

    Examples
    --------
    >>> compare_call(lambda x, weight: weight * x.mean(), (torch.ones(4, 3),), {"weight": 2})
    Verdict(differs='', unstable='', leaves=(), attributes=(), kept=(), lost='', transient=(), broken='', untrained=())
    >>> compare_call(lambda x: (x - 2).sqrt().mean(), (torch.ones(4, 3),), {}).broken
    'value'
    """
    first, second, third = (_Call(fn, args, kwargs, gradients) for _ in range(3))
    verdict = _compare([fn], (first, first), (second, second), (third.as_graph, third), half)
    if verdict.broken and not real:  # a logarithm of drawn numbers may be one of positive numbers in training
        args, kwargs = tree_map(lambda v: v.abs() if _is_floating(v) else v, (tuple(args), dict(kwargs)))
        return replace(verdict, broken=compare_call(fn, args, kwargs, half, True, gradients).broken)
    return verdict


def _is_floating(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


class _Call(nn.Module):
    """A call whose floating-point arguments are parameters; gives its value, and the arguments as others read them.

    Without gradients, the arguments are plain tensors.
    """

    def __init__(self, fn: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], gradients: bool) -> None:
        super().__init__()
        self._fn, self._gradients = fn, gradients
        leaves, self._spec = tree_flatten((tuple(args), dict(kwargs)))
        self._leaves = [
            nn.Parameter(v.detach().clone(), gradients) if isinstance(v, Tensor) and v.is_floating_point() else v
            for v in leaves
        ]
        for i, leaf in enumerate(self._leaves):
            if isinstance(leaf, nn.Parameter):
                self.register_parameter(f"argument{i}", leaf)

    def forward(self, step: int) -> Any:
        """The value of the call on copies, and the arguments."""
        with torch.set_grad_enabled(self._gradients):
            copies = [v.clone() if isinstance(v, Tensor) else v for v in self._leaves]
            # Others read them before the call, which may write into them, and hook their gradients.
            others = [c * 1 for c, v in zip(copies, self._leaves, strict=True) if isinstance(v, nn.Parameter)]
            args, kwargs = tree_unflatten(copies, self._spec)
            return [self._fn(*args, **kwargs), *others]

    def as_graph(self) -> Callable[[int], Any]:
        """The call as a phase computes it; other nodes read its arguments after it."""
        b = Builder()
        nodes = [b.input(f"argument{i}", v) if isinstance(v, Tensor) else v for i, v in enumerate(self._leaves)]
        args, kwargs = tree_unflatten(nodes, self._spec)
        outputs = {"value": b.call(self._fn, *args, **kwargs)}
        for node, leaf in zip(nodes, self._leaves, strict=True):
            if isinstance(leaf, nn.Parameter):
                outputs[node.name] = b.call(torch.mul, node, 1)
        graph = prune(b.finish(outputs).graph_module).graph_module
        given = {n.name: v for n, v in zip(nodes, self._leaves, strict=True) if isinstance(n, fx.Node)}

        def call(step: int) -> list[Any]:
            with torch.set_grad_enabled(self._gradients):
                return list(graph(**{n: v.clone() for n, v in given.items()}).values())

        return call


Side = tuple[Callable[[int], Any], nn.Module]
"""What is called with the number of the step, and the module whose gradients and buffers are looked at."""


def _compare(
    code: Sequence[object],
    first: Side,
    second: Side,
    traced: tuple[Callable[[], Callable[[int], Any]], nn.Module],
    half: bool,
    resumed: Side | None = None,
) -> Verdict:
    lost = ""
    with _generators_undone(), uncompiled(), torch.enable_grad():
        try:
            with undone(*code) as before:
                expected = _observe(*first, half)
                kept = tuple(before.changed())
                graded = () if resumed is not None else tuple(before.graded())
            with undone(*code):
                again = _observe(*second, half, [0])
                if resumed is not None:
                    carry(second[1], resumed[1])
                again += (last := _observe(*second, half, [1]))
            if resumed is not None:
                with undone(*code):
                    lost = _difference(last, _observe(*resumed, half, [1]))
        except BaseException as problem:
            if not is_foreign(problem):
                raise
            if is_of_types(problem) and not (is_of_kernels(problem) and torch.cuda.is_available()):
                raise WrongTypes(str(problem)) from problem
            if not isinstance(problem, NoGradient) or resumed is None or is_of_kernels(problem):
                return Verdict()
            with undone(*code):
                if not _any_gradient(second[0], half):
                    raise
            return Verdict("gradients: some of its own cannot be computed", lost=lost)
        if unstable := _difference(expected, again):
            return Verdict(unstable=unstable, kept=kept)
        broken = _broken(expected)
        make_graph, owner = traced
        try:
            with undone(*code):
                result = _observe(make_graph(), owner, half)
        except TraceError:
            return Verdict(kept=kept, lost=lost, broken=broken, untrained=graded)
        except BaseException as problem:  # the graph itself may be wrong in any way
            if not is_foreign(problem):
                raise
            why = str(problem) if isinstance(problem, Fatal) else f"it fails with {type(problem).__name__}"
            return Verdict(f"results: {why}", kept=kept, lost=lost, broken=broken, untrained=graded)
        return Verdict(_difference(expected, result), kept=kept, lost=lost, broken=broken, untrained=graded)


def _broken(seen: list[tuple[str, Any]]) -> str:
    """What is no number in the first step: an infinite element may be a mask, but no loss."""
    first = dict(reversed(seen[: len(seen) // STEPS]))
    tensors = [v for v in first["outputs"] if _is_floating(v)]
    if any(bool(v.isnan().any()) or (v.dim() == 0 and bool(v.isinf())) for v in tensors):
        return "value"
    gradients = [v for v in first["gradients"].values() if v is not None]
    return "gradient" if any(bool(v.isnan().any()) for v in gradients) else ""


@contextmanager
def _generators_undone() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]), draws_undone():
        yield


def _observe(
    call: Callable[[int], Any], module: nn.Module, half: bool, steps: Iterable[int] = range(STEPS)
) -> list[tuple[str, Any]]:
    """What each step leaves, by what it is."""
    seen: list[tuple[str, Any]] = []
    for step in steps:
        torch.default_generator.manual_seed(step)
        random.seed(step)
        np.random.seed(step)
        for p in module.parameters():
            p.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = [v for _, v in leaves_of(call(step)) if isinstance(v, Tensor | float | int)]
        seen.append(("outputs", tree_map(lambda v: v.detach().clone() if isinstance(v, Tensor) else v, outputs)))
        tensors = [v for v in outputs if isinstance(v, Tensor) and v.requires_grad]
        total = sum(((v.float() * _weights(v)).sum() for v in tensors), torch.zeros(()))
        if total.requires_grad:
            _backward(total)
        seen.append(("gradients", {n: _copy(p.grad) for n, p in module.named_parameters()}))
        _step(module)
        seen.append(("buffers", {n: _copy(b) for n, b in module.named_buffers()}))
        seen.append(("draws of torch's generator", [torch.rand(1)]))
        seen.append(("draws of Python's generator", [random.random()]))
        seen.append(("draws of NumPy's generator", [float(np.random.rand())]))
    return seen


def _backward(total: Tensor) -> None:
    """Gradients of a sum; raises NoGradient where there are none."""
    try:
        total.backward()  # type: ignore[no-untyped-call]
    except BaseException as problem:
        if not is_foreign(problem):
            raise
        raise NoGradient(str(problem)) from problem


def _any_gradient(call: Callable[[int], Any], half: bool) -> bool:
    """Whether the backward pass from one of the outputs alone succeeds."""
    tried, number = 0, 1
    while tried < number:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = [v for _, v in leaves_of(call(0)) if isinstance(v, Tensor) and v.requires_grad]
        number = len(outputs)
        with suppress(NoGradient):
            _backward(outputs[tried].float().sum())
            return True
        tried += 1
    return False


def _step(module: nn.Module) -> None:
    """What an optimizer does: what a network has kept of its weights shows in the next step."""
    with torch.no_grad():
        for p in module.parameters():
            if p.grad is not None and p.is_floating_point():
                largest = p.grad.abs().amax() if p.numel() else p.new_zeros(())
                p.sub_(0.1 * p.grad / torch.where(largest > 0, largest, 1))


def _input(value: Tensor, step: int) -> Tensor:
    """The input of a step: another one in each, so that what a network keeps of the first shows in the second."""
    if step == 0:
        return value.clone()
    return value * 0.75 + 0.125 if value.is_floating_point() else value.flip(0)


def _shown(value: object) -> str:
    """A value as Python writes it; of tensors only their shapes.

    >>> _shown({"a": torch.zeros(2, 3), "n": 1})
    "{'a': Tensor[2, 3], 'n': 1}"
    """
    text = repr(with_tensors(value, _Shape, lambda _: False))
    return text if len(text) <= 80 else f"{text[:79]}…"


class _Shape:
    def __init__(self, tensor: Tensor) -> None:
        self.shape = list(tensor.shape)

    def __repr__(self) -> str:
        return f"Tensor{self.shape}"


def _copy(value: Tensor | None) -> Tensor | None:
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
        a, b = a.as_subclass(Tensor), b.as_subclass(Tensor)
        same = (a.shape, a.dtype) == (b.shape, b.dtype)
        return same and torch.allclose(a, b, rtol=1e-4, atol=1e-6, equal_nan=True)
    return type(a) is type(b) and bool(a == b or (a != a and b != b))
