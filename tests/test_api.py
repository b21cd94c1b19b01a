"""Plans from Python: the same core plan and the same keys as the text, the same checks, and JSON."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdplan.api import EVERY, PlanBuilder, fn, init, inputs, item, labels, progress, word
from kdplan.compile import compile_plan
from kdplan.diagnostics.render import render_text
from kdplan.diagnostics.report import PlanError
from kdplan.ir.plan import Plan
from kdplan.ir.schema import dump_plan, load_plan, schema
from tests.passes.plans import compiled

TEXT = """
data digits = digits { augment = [pad_crop(8, pad = 1), flip()] }
param weight in [0.5, 2]
param seed in 0..1
verticals half of digits = random(parts = 2, seed = 3)
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  schedule = cosine()  epochs = 3  batch = 64 }
recipe slow = quick { epochs = 5  precision = bf16  keep_epochs = [2] }
teacher big = digits_net(width = 16, classes = digits.classes)
student small = digits_net(width = 4)
student peer = digits_net(width = 4) { seed = fold(seed, 1) }
teacher spec[v in half] = digits_net(classes = v)
phase train of big on digits with quick { loss = cross_entropy(big.logits, labels) }
phase each[v in half] of spec[v] on digits[v] with quick { loss = cross_entropy(spec[v].logits, labels) }
phase kd of small on digits with slow {
  batch = 32
  def hard = cross_entropy(small.logits, labels)
  measure on digits.test { top1 }
  loss = (1 - weight) * cross_entropy(small.logits, labels)
       + weight * kd(small.logits, big@train.logits, temperature = 4)
       + (progress < 0.5) * mse(fit(small.layer1, like = big@train.layer1), big@train.layer1) / 2
}
phase dml of small@kd[best], peer on digits with quick {
  loss = kl(small(inputs).logits, detach(peer.logits)) + sum(mean(x.fc) for x in [small, peer])
       - -mean(small.fc(big@init.features)) ** 2
}
measure table of big@train, small@kd, small@dml on digits.test over seed { top1, cross_entropy }
export tiny = small@kd[weight = 2, seed = 0][best]
"""


def python() -> PlanBuilder:
    p = PlanBuilder()
    digits = p.data("digits", augment=[item("pad_crop", 8, pad=1), "flip"])
    weight = p.param("weight", values=[0.5, 2])
    seed = p.param("seed", values=range(0, 2))
    half = p.verticals("half", of=digits, partition=item("random", parts=2, seed=3))
    quick = p.recipe("quick", optimizer=item("sgd", lr=0.1, momentum=0.9), schedule="cosine", epochs=3, batch=64)
    slow = p.recipe("slow", quick, epochs=5, precision="bf16", keep_epochs=[2])
    big = p.teacher("big", "digits_net", width=16, classes=digits.classes)
    small = p.student("small", "digits_net", width=4)
    peer = p.student("peer", "digits_net", width=4, seed=fn.fold(seed, 1))
    v = word("v")
    spec = p.teacher("spec", "digits_net", classes=v, each={"v": half})
    train = p.phase("train", of=big, on=digits, with_=quick, loss=fn.cross_entropy(big.logits, labels))
    p.phase(
        "each", of=spec[v], on=digits[v], with_=quick, loss=fn.cross_entropy(spec[v].logits, labels), each={"v": half}
    )
    hard, tap = fn.cross_entropy(small.logits, labels), (big @ train).layer1
    kd = p.phase(
        "kd", of=small, on=digits, with_=slow, batch=32, logged={"hard": hard}, validate=(digits.test, ["top1"]),
        loss=(1 - weight) * hard + weight * fn.kd(small.logits, (big @ train).logits, temperature=4)
        + (progress < 0.5) * fn.mse(fn.fit(small.layer1, like=tap), tap) / 2,
    )  # fmt: skip
    dml = p.phase(
        "dml", of=[(small @ kd)["best"], peer], on=digits, with_=quick,
        loss=fn.kl(small(inputs).logits, fn.detach(peer.logits)) + fn.sum([fn.mean(x.fc) for x in (small, peer)])
        - -(fn.mean(small.fc((big @ init).features)) ** 2),
    )  # fmt: skip
    p.measure(
        "table",
        of=[big @ train, small @ kd, small @ dml],
        on=digits.test,
        over="seed",
        metrics=["top1", "cross_entropy"],
    )
    p.export("tiny", (small @ kd)[{"weight": 2, "seed": 0}]["best"])
    return p


def test_the_same_plan_in_text_and_in_python_has_the_same_keys() -> None:
    text, from_python = compiled(TEXT), compile_plan(python().build())
    assert {n: k.key for n, k in from_python.keys.items()} == {n: k.key for n, k in text.keys.items()}
    assert from_python.plan.measures == text.plan.measures and from_python.plan.exports == text.plan.exports


def test_the_plan_of_python_is_a_plan_file() -> None:
    p = python()
    again = compiled(p.text()).keys.values()
    assert Counter(k.key for k in again) == Counter(k.key for k in compiled(TEXT).keys.values())


def test_members_of_families_are_picked() -> None:
    p = python()
    spec, digits, half = word("spec"), word("digits"), word("half")
    p.measure("one", of=(spec[0] @ "each")[0], on=digits[half[0]].test, metrics=[item("top1")])
    p.measure("some", of=word("small")[{"seed": EVERY}] @ "kd", on=digits.test, metrics=["top1"])
    plan = p.build()
    assert [str(r.target.versions[0].phase) for r in plan.measures["one"].rows] == [
        "each[v=part0, seed=0]", "each[v=part0, seed=1]",
    ]  # fmt: skip
    assert len(plan.measures["some"].rows) == 4
    p.export("all", (spec[EVERY] @ "each")[0])
    with pytest.raises(PlanError, match="KD0307"):
        p.build()


def test_mistakes_are_plan_errors_with_the_line_of_python() -> None:
    p = PlanBuilder()
    digits = p.data("digits")
    small = p.student("small", "digits_net", wdith=4)
    quick = p.recipe("quick", optimizer=item("sgd", lr=0.1), epochs=-3)
    p.phase("kd", of=small, on=digits, with_=quick, loss=fn.cross_entropy(small.logits, labels, temperature=2))  # here
    p.measure("table", of=small, on=digits, metrics=["top1"])
    with pytest.raises(PlanError) as e:
        p.build()
    codes = {d.code for d in e.value.diagnostics}
    assert {"KD0230", "KD0243"} <= codes
    notes = [n for d in e.value.diagnostics for n in d.notes if n.text == "written here"]
    assert any(n.span is not None and n.span.text.endswith("wdith=4)") for n in notes)
    shown = render_text(e.value.diagnostics, color=False)
    assert "<python>" in shown and "test_api.py" in shown


def test_what_is_no_expression_is_refused_at_once() -> None:
    small = word("small")
    with pytest.raises(AttributeError, match="cross_entropy"):
        fn.cross_entrpy(small.logits, labels)
    with pytest.raises(TypeError, match="known only while a phase runs"):
        bool(small.logits < 1)
    with pytest.raises(TypeError, match="cannot be called"):
        small(inputs)(inputs)
    with pytest.raises(TypeError, match="cannot stand in a plan"):
        small.logits + object()
    with pytest.raises(TypeError, match="iter"):
        list(small)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="quotes"):
        fn.mean('a"b')
    with pytest.raises(ValueError, match="no number"):
        small.logits * float("nan")
    with pytest.raises(ValueError, match="no name"):
        PlanBuilder().student("a b", "digits_net")


def test_arithmetic_keeps_pythons_grouping() -> None:
    a, b = word("a"), word("b")
    shown = {
        str(a - (b - 1)): "a - (b - 1)",
        str(-(a**2)): "-a ** 2",
        str((-a) ** 2): "(-a) ** 2",
        str(2 ** (a * b) / 3): "2 ** (a * b) / 3",
        str(fn.eq(a, 1) * (b >= 2)): "(a == 1) * (b >= 2)",
    }
    assert list(shown) == list(shown.values())


def test_python_files_and_plan_files_are_used(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def loss(a, b, k=1):\n    return a\n")
    (tmp_path / "base.kd").write_text("param width = 8\ndata digits = digits\nteacher big = digits_net(width = width)")
    p = PlanBuilder(folder=tmp_path)
    my, base = p.use("mine.py"), p.use("base.kd", "base", width=6)
    quick = p.recipe(optimizer="sgd", epochs=1)
    p.phase("p", of=base.big, on=base.digits, with_=quick, loss=my.loss(base.big.logits, labels, k=2))
    plan = p.build()
    assert plan.networks["big"].architecture.arguments["width"] == 6
    assert list(plan.phases["p"].code) == [f"{tmp_path / 'mine.py'}:loss"]


def test_plans_go_through_json() -> None:
    plan = compiled(TEXT).plan
    again = load_plan(dump_plan(plan))
    assert again == plan
    before, after = compiled(TEXT).keys, compile_plan(again).keys
    assert {n: k.key for n, k in after.items()} == {n: k.key for n, k in before.items()}


def test_the_schema_describes_the_plan() -> None:
    described = schema()
    assert set(described["properties"]) == set(Plan.__dataclass_fields__)
    assert "loss" in described["$defs"]["Phase"]["properties"]
    assert "span" not in described["$defs"]["Phase"]["properties"]
    with pytest.raises(ValueError, match="phases"):
        load_plan('{"phases": 3}')


def test_a_core_plan_with_a_hole_is_a_plan_error() -> None:
    plan = compiled(TEXT).plan
    del plan.phases["train[seed=0]"]
    with pytest.raises(PlanError) as e:
        compile_plan(plan)
    assert {d.code for d in e.value.diagnostics} == {"KD0320"}
