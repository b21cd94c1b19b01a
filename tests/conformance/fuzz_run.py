"""A case of `fuzz.py` by a phase's graph and by a plain PyTorch loop, and how the two compare."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.diagnostics.boundary import ForeignError, cause_of
from kdplan.graph.build import Builder, BuildError
from kdplan.graph.compare import compare
from kdplan.graph.freeze import split
from kdplan.graph.lines import NodeError
from kdplan.graph.prune import prune
from kdplan.graph.sizes import same_graph
from kdplan.graph.trace import TraceError
from tests.conformance.fuzz import Case
from tests.conformance.plain import Steps, batches, loop

STEPS = 3
_NUMBERS = itertools.count()
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes
    ----------
    kind
        `graph` and `leaf` are equal, `whole` is equal as the network is called whole; `pruned` ran, and lacks draws or
        statistics that nothing reads; `refused` is an error with a
        reason and a line; `invalid` means that plain PyTorch fails too. All else is a fault.
    detail
        What was refused, or what differs.
    """

    kind: str
    detail: str = ""

    @property
    def fault(self) -> bool:
        """Whether kdplan did what it must not."""
        return self.kind not in ("graph", "leaf", "whole", "pruned", "refused", "invalid")


def load(source: str, folder: Path) -> Any:
    """The module of a file with this text."""
    name = f"fuzzed_{next(_NUMBERS)}"
    file = folder / f"{name}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # data classes look themselves up
    spec.loader.exec_module(module)
    return module


class Pair(nn.Module):
    """The network that is trained, with the one that may be frozen."""

    def __init__(self, make: Callable[[], nn.Module], case: Case) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = make()
        self.net.train(case.training)
        self.small = nn.Linear(4, 4)

    @property
    def trained(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that are trained."""
        return [(n, p) for n, p in self.named_parameters() if p.requires_grad]


def total(frozen: bool, small: Tensor, y: Tensor, logits: Tensor, *more: Tensor) -> Tensor:
    """The loss of a case."""
    loss = F.mse_loss(small, logits) if frozen else F.cross_entropy(logits, y) + 0 * small.sum()
    for value in more:
        loss = loss + 0.1 * (value.float() ** 2).mean()
    return loss


def logits_of(output: Any) -> Tensor:
    """What `N.logits` means, for the structures that the generator writes."""
    if isinstance(output, dict):
        return output.get("logits", output.get("out"))
    if isinstance(output, Tensor):
        return output
    return output.logits if hasattr(output, "logits") else output[0]


def second(x: Tensor) -> Tensor:
    """The inputs of the second call."""
    return x.flip(0) * 0.5


# ---- plain PyTorch


def tapped(net: nn.Module, x: Tensor) -> list[str]:
    """Paths of sub-modules that are called and return a number for each sample and more."""
    caught: list[str] = []
    handles = [
        m.register_forward_hook(lambda _m, _x, out, path=path: caught.append(path) if _real(out) else None)
        for path, m in net.named_modules()
        if path and "parametrizations" not in path
    ]
    net(x)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(caught))


def _real(output: object) -> bool:
    return isinstance(output, Tensor) and output.is_floating_point()


def plain_loss(case: Case, pair: Pair, taps: list[str]) -> Loss:
    """The loss as a user writes it, with hooks for taps."""

    def run(x: Tensor, paths: list[str]) -> tuple[Tensor, list[Tensor]]:
        caught: dict[str, Tensor] = {}

        def keep(path: str) -> Any:
            return lambda _m, _x, out: caught.update({path: out.clone()})

        handles = [pair.net.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
        try:
            with torch.no_grad() if case.frozen else nullcontext():
                logits = logits_of(pair.net(x.clone()))
        finally:
            for handle in handles:
                handle.remove()
        return logits, [caught[path] for path in paths]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits, values = run(x, taps)
        if case.twice:
            values.append(run(second(x), [])[0])
        return total(case.frozen, pair.small(x), y, logits, *values)

    return loss


# ---- kdplan


def graph_loss(case: Case, pair: Pair, taps: list[str], x: Tensor, y: Tensor, whole: bool) -> tuple[Loss, str]:
    """The loss as a phase computes it, and what its networks are: graphs, with leaves, or pruned of effects."""
    b = Builder()
    inputs, labels = b.input("inputs_0", x), b.input("labels_0", y)
    b.network("net", pair.net, whole=whole)
    b.network("small", pair.small)
    logits = b.apply("net", (inputs,), "logits")
    values = [b.apply("net", (inputs,), path) for path in taps]
    if case.twice:
        values.append(b.apply("net", (b.call(second, inputs),), "logits"))
    loss = b.call(total, case.frozen, b.apply("small", (inputs,)), labels, logits, *values)
    joined = b.finish({"loss": loss})
    pruned = prune(joined.graph_module)
    cut = split(pruned.graph_module, {f"nets.{n}" for n, _ in pair.trained})
    leafless = not any(inlined.traced.leaves for inlined in b._inlined.values())
    kind = "pruned" if pruned.random or pruned.buffers else "graph" if leafless else "leaf"
    return lambda x, y: cut(inputs_0=x, labels_0=y)["loss"], kind


def _frozen(case: Case, pair: Pair) -> Pair:
    for name, parameter in pair.net.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and not case.frozen and (not case.part or "head" in name))
    return pair


def _steps(case: Case, pair: Pair, loss: Loss, data: list[tuple[Tensor, Tensor]], first: int = 0) -> Steps:
    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=case.half):
            return loss(x, y)

    return loop(pair, mixed, data, first)


def run(case: Case, folder: Path) -> Result:
    """Three steps of a case by both, and one of another batch size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _run(case, folder)


def _run(case: Case, folder: Path) -> Result:
    data = batches(STEPS) + batches(1, (5, 4))
    module = load(case.source, folder)
    paths: list[str] = []
    try:
        paths = tapped(Pair(module.Net, case).net, data[0][0].clone())
        taps = list(dict.fromkeys(paths[i % len(paths)] for i in case.taps)) if paths else []
        plain = _frozen(case, Pair(module.Net, case))
        expected = _steps(case, plain, plain_loss(case, plain, taps), data)
    except Exception as problem:
        return _invalid(case, module, data, problem)
    if not case.frozen and not expected.losses[0].requires_grad and not plain.trained:
        return Result("invalid", "nothing is trained")
    return _compared(case, load(case.source, folder), taps, data, expected)


def _compared(case: Case, module: Any, taps: list[str], data: Any, expected: Steps) -> Result:
    try:
        checked = compare(_frozen(case, Pair(module.Net, case)).net, (data[0][0][:4],), case.half)
        if "LawError" in checked.differs:
            return Result("law", checked.differs)
        if checked.unstable:
            return Result("unstable", checked.unstable)
        pair = _frozen(case, Pair(module.Net, case))
        reason = checked.differs
        if not reason and not same_graph(pair.net, data[0][0], [len(x) for x, _ in data[-2:]]):
            reason = "sizes"
        loss, kind = graph_loss(case, pair, taps, *data[0], whole=bool(reason))
    except (TraceError, BuildError, NodeError) as problem:
        cause = cause_of(problem)
        return Result("refused" if cause.file else "no line", str(cause))
    except Exception as problem:
        return Result("exception", f"{type(problem).__name__}: {problem}")
    kind = "whole" if reason and kind != "pruned" else kind
    try:
        ours = _steps(case, pair, loss, data)
    except Exception as problem:
        return Result("run fails", f"{kind}: {type(problem).__name__}: {problem}")
    if kind == "pruned":
        return Result(kind)
    if difference := _difference(ours, expected, case.half, steps=1 if case.half and taps else len(data)):
        return Result("differs", f"{kind}: {difference}")
    return Result(kind, reason)


def _invalid(case: Case, module: Any, data: Any, problem: Exception) -> Result:
    """Where plain PyTorch fails, kdplan may too, but only with an exception that a user's code raises."""
    try:
        pair = _frozen(case, Pair(module.Net, case))
        compare(pair.net, (data[0][0][:4],), case.half)
        loss, _ = graph_loss(case, pair, [], *data[0], whole=False)
        _steps(case, pair, loss, data[:1])
    except (TraceError, BuildError, NodeError, RuntimeError):
        pass
    except Exception as other:
        cause = other.__cause__ if isinstance(other, ForeignError) and other.__cause__ is not None else other
        if type(cause) is not type(problem):
            return Result("other exception", f"{type(problem).__name__} against {type(other).__name__}: {other}")
    return Result("invalid", f"{type(problem).__name__}: {problem}")


def _difference(ours: Steps, expected: Steps, half: bool, steps: int) -> str:
    """What differs; with bf16 and taps, gradients are summed in another order, which later steps amplify."""
    for step in range(steps):
        for what in ("losses", "gradients", "buffers", "draws"):
            one, two = getattr(ours, what)[step], getattr(expected, what)[step]
            if not _equal(one, two, half):
                return f"{what} of step {step}: {_short(one, two)}"
    return ""


def _short(one: Any, two: Any) -> str:
    if isinstance(one, dict):
        names = [n for n in one if n not in two or not _equal(one[n], two[n], False)]
        return f"{names} {one.get(names[0]) if names else ''} and {two.get(names[0]) if names else ''}"
    return f"{one} and {two}"


def _equal(a: Any, b: Any, half: bool) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(v, b[k], half) for k, v in a.items())
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        near = (
            {"rtol": 3e-2, "atol": 3e-2 * max([1.0, *b.float().abs().flatten().tolist()])}
            if half
            else {"rtol": 1e-4, "atol": 1e-6}
        )
        return (a.shape, a.dtype) == (b.shape, b.dtype) and torch.allclose(a, b, equal_nan=True, **near)
    return type(a) is type(b) and a == b
