"""A phase of one small network, run by kdplan and by a plain PyTorch loop on the same batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.graph.inspect import fresh
from kdplan.graph.trace import trace
from kdplan.ir.plan import Phase, Plan
from kdplan.ir.seed import fold
from kdplan.ir.user_code import module_of_file
from kdplan.nn.fused import fastest, prepare
from kdplan.runtime.checkpoint import reseed
from kdplan.runtime.execute import run_plan
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.streams import Batch
from tests.conformance.plain import CPU, Steps, same

MODULES = Path(__file__).with_name("modules")
RATE, MOMENTUM, SIZE = 0.05, 0.9, 8
Loss = Callable[[list[nn.Module], Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """A network or a loss of a user's file, and what kdplan makes of it.

    Attributes
    ----------
    file, name
        The file below `modules`, and the class or function in it.
    outcome
        `traced`, `leaf` (called whole, or a part of it is), or the code of the error that `check` gives.
    resumed
        Whether all that it needs to go on is in buffers; where not, `check` warns.
    of
        What the phase trains, with `NET` for the network.
    loss, plain
        The phase's loss, with `NET` for the network and `OTHER` for a second one; the same for a plain loop.
    other
        Class of that second network.
    precision
        Of the recipe.
    label
        Tells two cases of one network apart.
    """

    file: str
    name: str
    outcome: str = "traced"
    resumed: bool = True
    of: str = "NET"
    loss: str = ""
    plain: Loss | None = None
    other: str = ""
    precision: str = "fp32"
    label: str = ""

    @property
    def id(self) -> str:
        """The case's name among all, and its network's in a plan."""
        return "_".join(filter(None, (self.file, self.name, self.label)))

    @property
    def is_network(self) -> bool:
        return self.name[0].isupper()

    def declarations(self) -> str:
        """The networks and the phase of this case in a plan that uses its file."""
        maker = f"{self.file}.{self.name}()" if self.is_network else "mlp(inputs = 64, hidden = [8])"
        function = "cross_entropy" if self.is_network else f"{self.file}.{self.name}"
        loss = f"{function}(NET.logits, labels)"
        other, of = f"{self.id}_other", self.of
        lines = [f"student {self.id} = {maker}"]
        if self.other:
            lines, of = [*lines, f"student {other} = {self.file}.{self.other}()"], f"{of}, {other}"
        lines.append(f"phase {self.id}_train of {of} on digits with {self.precision} {{ loss = {self.loss or loss} }}")
        return "\n".join(lines).replace("NET", self.id).replace("OTHER", other)

    def plain_loss(self, nets: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
        """The loss as a plain loop computes it."""
        if self.plain is not None:
            return self.plain(nets, x, y)
        loss: Any = F.cross_entropy if self.is_network else getattr(file(self.file), self.name)
        value: Tensor = loss(scores(nets[0](x)), y)
        return value


def scores(output: Any) -> Tensor:
    """The logits among what a network returns."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        return scores(output["logits"])
    return scores(output.logits if hasattr(output, "logits") else output[0])


def plan_of(cases: list[Case], steps: int) -> str:
    """A plan with a phase for each case."""
    uses = dict.fromkeys(f'use "{MODULES / case.file}.py" as {case.file}' for case in cases)
    recipes = "\n".join(
        f"recipe {precision} {{ optimizer = sgd(lr = {RATE}, momentum = {MOMENTUM})  steps = {steps}  "
        f"batch = {SIZE}  precision = {precision} }}"
        for precision in dict.fromkeys(case.precision for case in cases)
    )
    data = f"data digits = digits {{ limit = {3 * SIZE} }}"
    return "\n".join([*uses, data, recipes, *(case.declarations() for case in cases)])


def compiled(cases: list[Case], steps: int, folder: Path) -> Compiled:
    return compile_source(Source("plan.kd", plan_of(cases, steps)), folder)


@dataclass
class Record:
    """A phase as kdplan ran it: the batches that it saw, and what each step left."""

    seed: int = 0
    batches: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    steps: Steps = field(default_factory=lambda: Steps([], [], [], []))
    weights: list[dict[str, Tensor]] = field(default_factory=list)


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Record]:
    """Inside, every step of the training loop is written down."""
    record = Record()
    step, forward = Training.train_step, Training.forward

    def kept(self: Training, batch: Batch) -> dict[str, Tensor]:
        result = forward(self, batch)
        record.steps.losses.append(result["loss"].detach().clone())
        return result

    def train_step(self: Training, batch: Batch) -> None:
        record.seed = self.job.seed
        record.batches.append((batch["inputs_0"].clone(), batch["labels_0"].clone()))
        step(self, batch)
        note(record.steps, record.weights, self.job.phase_graph.networks)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", train_step)
        patch.setattr(Training, "forward", kept)
        yield record


def note(steps: Steps, weights: list[dict[str, Tensor]], nets: list[nn.Module]) -> None:
    """Write down what a step left, besides its loss."""
    named = [(f"{i}.{n}", p) for i, net in enumerate(nets) for n, p in net.named_parameters()]
    steps.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in named})
    weights.append({n: p.detach().clone() for n, p in named})
    steps.buffers.append({f"{i}.{n}": b.clone() for i, net in enumerate(nets) for n, b in net.named_buffers()})
    steps.draws.append((float(torch.rand(())), random.random(), float(np.random.rand())))


def by_kdplan(case: Case, steps: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Compiled, Record]:
    """Check and run the phase of a case."""
    ready = compiled([case], steps, folder)
    inspect(ready)
    with recorded(monkeypatch) as record:
        result = run_plan(ready.plan, ready.planned, ready.keys, Store(folder / "store"), RunOptions(device="cpu"))
    for problem in result.failed.values():
        raise problem
    return ready, record


def by_hand(case: Case, plan: Plan, record: Record) -> Record:
    """The same steps in plain PyTorch."""
    (phase,) = plan.phases.values()
    nets = [fresh(plan.networks[trainee.base.network]) for trainee in phase.trainees]
    parameters = trained(phase, nets)
    optimizer = torch.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM, **fastest("sgd", parameters))
    plain = Record(record.seed, record.batches)
    for number, (x, y) in enumerate(record.batches):
        reseed(fold(record.seed, "step", number), CPU)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=case.precision == "bf16"):
            loss = case.plain_loss(nets, x.clone(), y)
        loss.backward()
        prepare(optimizer)
        optimizer.step()
        plain.steps.losses.append(loss.detach())
        note(plain.steps, plain.weights, nets)
    return plain


def trained(phase: Phase, nets: list[nn.Module]) -> list[nn.Parameter]:
    """The parameters behind `of`, with the networks in the modes that it means."""
    parameters: dict[int, nn.Parameter] = {}
    for trainee, net in zip(phase.trainees, nets, strict=True):
        parts = [net.get_submodule(path) for path in trainee.paths] or [net]
        net.eval().requires_grad_(False)
        for part in parts:
            part.train().requires_grad_(True)
            parameters |= {id(p): p for p in part.parameters()}
    return list(parameters.values())


def compare(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, steps: int = 3) -> str:
    """Losses, gradients, weights, buffers and draws of every step are those of the plain loop, bit for bit.

    Gives the outcome: `traced` or `leaf`.
    """
    ready, record = by_kdplan(case, steps, folder, monkeypatch)
    plain = by_hand(case, ready.plan, record)
    assert len(record.steps.losses) == steps
    same(record.steps, plain.steps)
    for ours, theirs in zip(record.weights, plain.weights, strict=True):
        assert ours.keys() == theirs.keys()
        differ = [n for n in ours if not torch.equal(ours[n], theirs[n])]
        assert not differ, differ
    warnings = [w for w in ready.warnings if w.code == "KD0540"]
    net = fresh(next(iter(ready.plan.networks.values()))).train()
    return "leaf" if warnings or trace(net, record.batches[0][0]).leaves else "traced"


@cache
def file(name: str) -> ModuleType:
    """A file of `modules`, as a plain program imports it."""
    return module_of_file(MODULES / f"{name}.py")
