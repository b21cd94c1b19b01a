"""Small phases on digits, assembled by hand, for the tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.graph.phase_graph import Networks, PhaseGraph
from kdplan.ir.dag import PhaseKey, Planned
from kdplan.ir.expr import Call, Const, InTraining, Op, StepCounter, StreamField, Tap, Version
from kdplan.ir.plan import Data, Item, Network, Phase, Plan, Recipe, Trainee, Validation, View
from kdplan.nn import losses
from kdplan.runtime.loop import Job, Training
from kdplan.runtime.store import Store
from kdplan.runtime.store.work import Work
from kdplan.runtime.streams import Streams


class TrainableGraph(nn.Module):
    """Cross-entropy of a trainable network, and a logged term."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        hard = F.cross_entropy(self.net(inputs_0), labels_0)
        return {"loss": hard, "hard": hard}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )


def phase_graph(net: nn.Module) -> PhaseGraph:
    trainable_graph = TrainableGraph(net)
    return PhaseGraph(
        trainable_graph=trainable_graph,
        root=trainable_graph,
        networks=[net],
        trainable=[dict(net.named_parameters())],
        trainable_inputs=["inputs_0", "labels_0"],
    )


def recipe(**changes: Any) -> Recipe:
    settings: dict[str, Any] = {"optimizer": Item("sgd", {"lr": 0.05, "momentum": 0.9}), "epochs": 2, "batch": 64}
    return Recipe(**(settings | changes))


def streams(recipe: Recipe, limit: int | None = 300, seed: int = 3) -> Streams:
    data = open_view(ViewSpec("digits", limit=limit), None)
    return Streams([Loader(data, recipe.batch_of() * recipe.accumulate, seed, train=True)])


def job(work: Work, recipe: Recipe, net: nn.Module, **changes: Any) -> Job:
    settings: dict[str, Any] = {"streams": streams(recipe), "phase_graph": phase_graph(net)}
    settings |= {"name": "p", "recipes": [recipe], "work": work, "device": torch.device("cpu"), "seed": 3}
    return Job(**(settings | changes))


def train(root: Path, recipe: Recipe, net: nn.Module, key: str = "k", **changes: Any) -> Training:
    """Trains to the end and leaves the phase's work uncommitted."""
    with Store(root).begin(key) as work:
        training = Training(job(work, recipe, net, **changes))
        training.run()
    return training


def same(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have equal bits."""
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


class Interpreted(nn.Module):
    """A phase's loss, evaluated as it is written: what a compiled phase must be equal to."""

    def __init__(self, phase: Phase, networks: Networks) -> None:
        super().__init__()
        self.phase, self.networks = phase, networks
        self.nets = nn.ModuleList([*networks.trainable, *networks.frozen.values()])

    def forward(self, **known: Tensor) -> dict[str, Tensor]:
        self.done: dict[str, Any] = {}  # equal calls are one call
        values = {"loss": self.value(self.phase.loss, known)}
        return values | {name: self.value(e, known) for name, e in self.phase.logged.items()}

    def value(self, e: Any, known: dict[str, Tensor]) -> Any:
        if repr(e) not in self.done:
            self.done[repr(e)] = self.compute(e, known)
        return self.done[repr(e)]

    def compute(self, e: Any, known: dict[str, Tensor]) -> Any:
        if isinstance(e, Const):
            return e.value
        if isinstance(e, StreamField):
            return known[f"{e.field}_{e.stream}"]
        if isinstance(e, StepCounter):
            return known[e.name]
        if isinstance(e, Tap):
            net = self.networks.trainable[e.of.slot] if isinstance(e.of, InTraining) else self.networks.of(e.of)
            return net(*(self.value(i, known) for i in e.inputs))
        args = [self.value(a, known) for a in e.args]
        if isinstance(e, Op):
            result = args[0]
            for other in args[1:]:
                result = result + other if e.op == "+" else result * other
            return result
        function: Any = {"cross_entropy": F.cross_entropy, "mse": losses.mse, "boom": boom}[e.function]
        return function(*args)


def boom(x: Tensor) -> Tensor:
    raise ValueError("no luck")


def assemble(plan: Plan, phase: Phase, networks: Networks) -> PhaseGraph:
    trainable_graph = Interpreted(phase, networks)
    names = [f"inputs_{i}" for i in range(len(phase.streams))]
    names += [f"labels_{i}" for i, view in enumerate(phase.streams) if not view.unlabelled]
    return PhaseGraph(
        trainable_graph=trainable_graph,
        root=trainable_graph,
        networks=networks.trainable,
        trainable=[dict(n.named_parameters()) for n in networks.trainable],
        trainable_inputs=[*names, "epoch", "step", "progress"],
        flops=1,  # so few that one thread runs it, as it does the compiled phase
    )


INPUTS, LABELS = StreamField(0, "inputs"), StreamField(0, "labels")


def logits(of: Version | InTraining) -> Tap:
    return Tap(of, [INPUTS], "logits")


def hard(slot: int = 0) -> Call:
    return Call("cross_entropy", [logits(InTraining(slot)), LABELS])


def digits_plan(**settings: Any) -> Plan:
    """A teacher, and a student that copies it."""
    change = recipe(**settings)
    plan = Plan(data={"d": Data("d", Item("digits"), limit=300, shape=[1, 8, 8], classes=[str(i) for i in range(10)])})
    plan.data["d"].sizes = {"train": 1437, "test": 360}
    for name, width in (("big", 8), ("small", 4)):
        plan.networks[name] = Network(name, Item("digits_net", {"width": width}), seed=1, input_shape=[1, 8, 8])
    check = Validation(View("d", "test"), [Item("top1")])
    plan.phases["train"] = Phase("train", [Trainee(Version("big"))], [View("d")], [change], hard(), validations=[check])
    soft = Call("mse", [logits(InTraining(0)), logits(Version("big", "train"))])
    loss = Op("+", [hard(), soft])
    plan.phases["kd"] = Phase("kd", [Trainee(Version("small"))], [View("d")], [change], loss, {"soft": soft})
    return plan


def planned(plan: Plan, needs: dict[str, list[str]] | None = None) -> dict[str, Planned]:
    needs = needs or {"kd": ["train"]}
    return {n: Planned(n, f"key-{n}", "run", [], needs.get(n, [])) for n in plan.phases}


def keys(plan: Plan) -> dict[str, PhaseKey]:
    return {n: PhaseKey(f"key-{n}", [], {}) for n in plan.phases}
