"""A plan with every kind of box, and its phases with actions."""

from __future__ import annotations

from kdplan.ir.dag import Action, Cost, Planned, Reason
from kdplan.ir.expr import Call, Expr, InTraining, Op, StreamField, Tap, Version
from kdplan.ir.origins import Loaded
from kdplan.ir.plan import (
    Data,
    Export,
    Item,
    Measure,
    Network,
    Phase,
    Plan,
    Recipe,
    Row,
    Target,
    Trainee,
    Validation,
    View,
)

TRAIN, TEST = View("digits"), View("digits", "test")


def cross_entropy() -> Expr:
    return Call("cross_entropy", [Tap(InTraining(0), [StreamField(0, "inputs")], "logits"), StreamField(0, "labels")])


def phase(name: str, network: str, teacher: Version | None = None) -> Phase:
    loss = cross_entropy()
    if teacher is not None:
        taps: list[Expr] = [Tap(of, [StreamField(0, "inputs")], "logits") for of in (teacher, InTraining(0))]
        loss = Op("+", [loss, Call("kd", taps)])
    recipe = Recipe(Item("sgd", {"lr": 0.1}), epochs=30, batch=64)
    return Phase(
        name, [Trainee(Version(network))], [TRAIN], [recipe], loss, validations=[Validation(TEST, [Item("top1")])]
    )


def planned(name: str, action: Action, needs: list[str], seconds: float | None = 20.0) -> Planned:
    cost = Cost(278_324, 278_324, 10_500_000_000, 660, 50_000_000, 1_100_000, 2_300_000, seconds)
    return Planned(name, f"{name}-key", action, [Reason("new", "never run")], needs, cost=cost)


def sample(family: int = 0) -> tuple[Plan, dict[str, Planned]]:
    """A teacher, two students, and a sweep of `family` members."""
    plan = Plan()
    plan.data["digits"] = Data("digits", Item("digits"), sizes={"train": 1437, "test": 360})
    plan.networks["big"] = Network("big", Item("cnn", {"width": 64}), role="teacher")
    plan.networks["small"] = Network("small", Item("cnn", {"width": 8}), role="student")
    plan.networks["given"] = Network("given", Item("cnn"), role="teacher", origin=Loaded("given.safetensors", "f"))
    big = Version("big", "big@train")
    plan.phases["big@train"] = phase("big@train", "big")
    plan.phases["kd"] = phase("kd", "small", big)
    plan.phases["alone"] = phase("alone", "small", Version("given"))
    phases = {
        "big@train": planned("big@train", "cached", []),
        "kd": planned("kd", "rerun", ["big@train"]),
        "alone": planned("alone", "resume", []),
    }
    phases["kd"].reasons = [Reason("changed", "`weight` changed", at="a.kd:3:4", before="5", after="9")]
    phases["alone"].resume_step = 300
    versions = [big, Version("small", "kd"), Version("small", "alone")]
    for i in range(family):
        name = f"sweep[weight={i}]"
        plan.phases[name] = phase(name, "small", big)
        phases[name] = planned(name, "run", ["big@train"])
        versions.append(Version("small", name))
    rows = [Row(str(v), Target([v])) for v in versions]
    plan.measures["table"] = Measure("table", rows, [TEST], [Item("top1")])
    plan.exports["tiny"] = Export("tiny", Target([Version("small", "kd", "best")]))
    return plan, phases
