"""Constructs, bodies and results in plans from Python: the same keys as in text."""

from __future__ import annotations

import importlib
import sys
import types
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from kdplan.api import EVERY, PlanBuilder, Term, fn, item, labels, part, several, word
from kdplan.api.declaration import Part
from kdplan.constructs.table import CONSTRUCTS, KINDS
from kdplan.diagnostics.report import PlanError
from tests.constructs.test_docstrings import FRAME
from tests.passes.plans import bag


def frame() -> PlanBuilder:
    """`FRAME` of the constructs' docstrings, in Python."""
    p = PlanBuilder()
    p.param("seed", 0)
    data = p.data("D", "digits")
    recipe = p.recipe("R", optimizer=item("sgd", lr=0.1), epochs=1, batch=64)
    net = p.model("net", "digits_net", width=2)
    halves = p.verticals("V", data, parts={"low": range(0, 5), "high": range(5, 10)})
    hard = fn.cross_entropy(word("self").logits, labels)

    def body(on: Term) -> Part:
        return part.phase("train", on=on, with_=recipe, loss=hard)

    p.teacher("big", "digits_net", body(data), width=4)
    p.teacher("a", "digits_net", body(data[halves[0]]), width=2, classes=halves[0])
    p.teacher("b", "digits_net", body(data[halves[1]]), width=2, classes=halves[1])
    small = p.student("small", net)
    p.student("both", "digits_net", width=3, classes=data.classes)
    p.phase("alone", of=small, on=data, with_=recipe, loss=fn.cross_entropy(small.logits, labels))
    return p


BIG, SMALL, A, B, BOTH, D, R = (word(n) for n in ("big", "small", "a", "b", "both", "D", "R"))
PREVIOUS, SELF, BRANCH, GATED = (word(n) for n in ("previous", "self", "branch", "gated"))


def stages(p: PlanBuilder) -> None:
    p.stages(
        "mimic",
        part.stage("s1", pairs=[(SMALL.layer1, BIG.layer1)]),
        part.stage("s2", pairs=[(SMALL.layer2, BIG.layer2)]),
        part.head(loss=fn.cross_entropy(SMALL.logits, labels)),
        of=SMALL,
        from_=BIG,
        on=D,
        with_=R,
    )


def generations(p: PlanBuilder) -> None:
    p.generations(
        "line",
        part.patriarch(loss=fn.cross_entropy(SELF.logits, labels)),
        part.generation(loss=fn.kl(PREVIOUS.logits, SELF.logits)),
        of=word("net"),
        on=D,
        with_=R,
        count=2,
    )


def branches(p: PlanBuilder) -> None:
    each = several(lambda b: fn.cross_entropy(b.logits, labels), BRANCH, "b")
    loss = fn.sum(each) + fn.cross_entropy(GATED.logits, labels)
    p.branches("one", of=word("net"), from_=word("layer2"), on=D, with_=R, count=3, loss=loss)


def amalgamate(p: PlanBuilder) -> None:
    p.amalgamate("ka", of=BOTH, from_=[A, B], on=D.unlabelled, with_=R, layers=["stem.conv"])


def ensemble(p: PlanBuilder) -> None:
    pair = p.ensemble("pair", of=[BIG, SMALL @ "alone"], mean="logits")
    p.phase("taught", of=SMALL, on=D, with_=R, loss=fn.mse(SMALL.logits, pair.logits))


IN_PYTHON: dict[str, Callable[[PlanBuilder], None]] = {
    f.__name__: f for f in (stages, generations, branches, amalgamate, ensemble)
}


def _keys(p: PlanBuilder) -> Counter[str]:
    return Counter(k.key for k in p.compile().keys.values())


@pytest.mark.parametrize("kind", CONSTRUCTS)
def test_a_construct_in_python_has_the_keys_of_its_text(kind: str) -> None:
    shown = importlib.import_module(f"kdplan.constructs.{kind}").__doc__ or ""
    text = shown.partition("\n\n")[2].partition("\n↓\n")[0]
    p = frame()
    assert _keys(p) == bag(FRAME)
    IN_PYTHON[kind](p)
    assert _keys(p) == bag(FRAME + text) != bag(FRAME)
    assert bag(p.text()) == bag(FRAME + text)


def test_stages_are_found_in_plans_from_python() -> None:
    head = "head { loss = cross_entropy(small.logits, labels) }"
    p = frame()
    mimic = p.stages("mimic", part.head(loss=fn.cross_entropy(SMALL.logits, labels)),
                     of=SMALL, from_=BIG, on=D, with_=R, stages="auto")  # fmt: skip
    p.measure("table", of=SMALL @ mimic, on=D.test, metrics=["top1"])
    assert _keys(p) == bag(f"{FRAME} stages mimic of small from big on D with R {{ stages = auto {head} }}")


def test_what_a_construct_returns_is_used_as_its_name_is() -> None:
    p = frame()
    line = p.generations(
        "line", part.patriarch(loss=fn.cross_entropy(SELF.logits, labels)),
        part.generation(loss=fn.kl(PREVIOUS.logits, SELF.logits), logged={"far": fn.mean(SELF.logits)}),
        of=word("net"), on=D, with_=R, count=1, validate=(D.test, ["top1"]),
    )  # fmt: skip
    several_of_it = p.ensemble("together", of=line[EVERY])
    p.measure("table", of=[line[EVERY], several_of_it], on=D.test, metrics=["top1"])
    assert len(p.compile().plan.measures["table"].rows) == 3


def test_every_setting_of_a_network_is_one_in_python() -> None:
    p = frame()
    p.student("c", "digits_net", width=2, mode="train", reset=["fc"], head=item("fc", 16), seed=3)
    own = FRAME + "student c = digits_net(width = 2) { mode = train  reset = [fc]  head = fc(16)  seed = 3 }"
    use = "phase x of c on D with R { loss = cross_entropy(c.logits, labels) }"
    p.phase("x", of=word("c"), on=D, with_=R, loss=fn.cross_entropy(word("c").logits, labels))
    assert _keys(p) == bag(own + use)


def test_unknown_constructs_and_parts_name_the_nearest() -> None:
    p = frame()
    with pytest.raises(AttributeError, match="generations"):
        p.generation("line")
    with pytest.raises(AttributeError, match="patriarch"):
        part.patriach()
    assert set(CONSTRUCTS) < set(dir(p)) and {"head", "stage", "phase"} <= set(dir(part)) <= set(KINDS)


def test_a_mistake_in_a_construct_has_its_line_of_python() -> None:
    p = frame()
    p.stages("mimic", of=SMALL, from_=BIG, on=D, with_=R, stages="auto", cuont=2)  # here
    with pytest.raises(PlanError) as e:
        p.check()
    (d,) = e.value.diagnostics
    assert any(n.span is not None and n.span.text.endswith("# here") for n in d.notes)


def _trained(folder: Path) -> tuple[PlanBuilder, Path]:
    p = PlanBuilder()
    few = p.data("digits", limit=100)
    seed = p.param("seed", values=range(0, 2))
    quick = p.recipe("quick", optimizer=item("sgd", lr=0.1), epochs=1, batch=64)
    small = p.student("small", "digits_net", width=2, seed=seed)
    alone = p.phase("alone", of=small, on=few, with_=quick, loss=fn.cross_entropy(small.logits, labels))
    p.measure("table", of=small @ alone, on=few.test, metrics=["top1", "parameters"])
    return p, folder / "store"


def test_results_are_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    p, store = _trained(tmp_path)
    first = p.run(store)
    table = first["table"]
    assert table.columns[:3] == ["network", "data", "top1_last"] and len(table) == 1
    assert table["network"] == ["small@alone"] and table["top1_last_n"] == [2]
    assert table.csv().splitlines()[0] == ",".join(table.columns)
    assert len(first.run.trained) == 2

    again = p.run(store)
    assert again.run.trained == [] and again["table"].rows == table.rows

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        table.frame()
    fake = types.ModuleType("pandas")
    fake.DataFrame = lambda rows, columns: (rows, columns)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert table.frame() == (table.rows, table.columns)
