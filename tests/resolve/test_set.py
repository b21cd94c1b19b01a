"""`--set`: one value keeps an axis, several make one, and every plan in the repository takes both."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.report import PlanError, Reporter
from kdplan.diagnostics.span import Source
from kdplan.passes.expand import expand
from kdplan.passes.load import Declared, load
from kdplan.syntax import ast
from kdplan.syntax.write import expression
from tests.conftest import root_for
from tests.golden.phase_keys import PLANS, ROOT
from tests.passes.plans import HEAD, codes, compiled, keys

ONE_VALUE = {
    "KD0507": "no such network is there: a residual network of depth 55",
    "KD0243": "a part that is out of range: one part, an epoch behind the last",
}
"""Errors that a list for a number may rightly give, and why."""


def _params(plan: Path) -> list[Declared]:
    """The params that `--set` reaches."""
    source = Source(str(plan), plan.read_text(encoding="utf-8"))
    known = load(source, plan.parent, Reporter()).params()
    return [d for several in known.values() if len(several) == 1 for d in several if d.node.params is None]


def _first(values: ast.Expr) -> ast.Expr:
    """The first value of an axis."""
    if isinstance(values, ast.Range):
        return values.low
    assert isinstance(values, ast.List)
    return values.items[0]  # type: ignore[return-value]


def _keys(plan: Compiled) -> set[str]:
    return {k.key for k in plan.keys.values()}


@pytest.mark.parametrize("name", PLANS, ids=str)
def test_every_plan_takes_one_value_of_an_axis_and_several_of_a_number(
    name: Path, request: pytest.FixtureRequest
) -> None:
    plan = ROOT / name
    params = _params(plan)
    if not params:
        return
    root = root_for(plan, request)

    def with_(**values: str) -> Compiled:
        return compile_source(Source(str(plan), plan.read_text(encoding="utf-8")), plan.parent, root, params=values)

    whole = with_()
    for param in params:
        axis, one = param.node.clause("in"), param.node.clause("=")
        if axis is not None:
            fewer = with_(**{param.name: expression(_first(axis.exprs[0]))})
            assert _keys(fewer) <= _keys(whole), param.name
            assert set(fewer.plan.phases) <= set(whole.plan.phases), param.name
            assert set(fewer.plan.exports) == set(whole.plan.exports)
        elif one is not None and isinstance(number := one.exprs[0], ast.Number):
            other = number.value / 2 if isinstance(number.value, float) else max(1, number.value - 1)
            if other == number.value:
                continue
            try:
                more = with_(**{param.name: f"[{expression(number)}, {other}]"})
            except PlanError as e:
                assert {d.code for d in e.diagnostics} <= set(ONE_VALUE), (param.name, e)
                continue
            same = [with_(**{param.name: expression(number)}), with_(**{param.name: str(other)})]
            assert _keys(more) == _keys(same[0]) | _keys(same[1]), param.name
            assert _keys(same[0]) == _keys(whole)


SWEPT = (
    HEAD
    + """
param weight = 0.9
param seed in 0..2
student small = digits_net(width = 2)
phase a of small on digits with quick { loss = weight * cross_entropy(small.logits, labels) }
measure table of small@a by weight on digits.test { top1, plot(x = weight, y = top1) }
"""
)


def test_one_value_of_an_axis_is_in_names_rows_and_plots() -> None:
    one = compiled(SWEPT, params={"weight": "[0.5]", "seed": "2 - 1"})
    assert list(one.plan.phases) == ["a[weight=0.5, seed=1]"]
    assert one.plan.measures["table"].rows[0].coordinates == {"weight": 0.5, "seed": 1}
    assert one.plan.measures["table"].plots[0].x == "weight"


@pytest.mark.parametrize("declared", ["in 0..2", "= 0"])
def test_all_values_of_an_axis_are_one_where_it_has_one(declared: str) -> None:
    text = (
        HEAD
        + f"""
    param seed {declared}
    student small = digits_net(width = 2)
    phase a of small on digits with quick {{ loss = cross_entropy(small.logits, labels) }}
    ensemble every of small@a[seed = *]
    phase b of small on digits with quick {{ loss = mse(small.logits, every.logits) }}
    measure table of every, small@b by seed on digits.test {{ top1 }}
    measure means of small@b on digits.test over seed {{ top1 }}
    """
    )
    one = compiled(text, params={"seed": "1"} if declared.startswith("in") else {})
    assert len(one.plan.phases) == 2
    assert len(one.plan.measures["table"].rows) == 2 and len(one.plan.measures["means"].rows) == 1


def test_an_export_follows_what_set_has_made_an_axis() -> None:
    text = SWEPT.replace("by weight", "").replace(", plot(x = weight, y = top1)", "")
    text += "export tiny = small@a[seed = 0]"
    assert list(compiled(text).plan.exports) == ["tiny"]
    assert list(compiled(text, params={"weight": "[0.5]"}).plan.exports) == ["tiny"]
    swept = compiled(text, params={"weight": "[0.5, 0.9]"}).plan.exports
    assert {n: str(e.target.versions[0].phase) for n, e in swept.items()} == {
        "tiny[weight=0.5]": "a[weight=0.5, seed=0]",
        "tiny[weight=0.9]": "a[weight=0.9, seed=0]",
    }
    assert codes(text.replace("= 0.9", "in [0.5, 0.9]")) == ["KD0404"]  # who writes an axis picks from it


FIXED = (
    HEAD
    + """
param seed = 0
student small = digits_net(width = 2)
student crowd[i in 0..1] = digits_net(width = 2) { seed = fold(seed, i) }
phase a of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase b[i in 0..1] of crowd[i] on digits with quick { loss = cross_entropy(crowd[i].logits, labels) }
"""
)


@pytest.mark.parametrize(
    "picked",
    ["small@a[seed = 0]", "small[seed = 0]@a", "small@a[seed = *]", "small@a[seed = [0]]", "small@a[seed = 0][best]",
     "crowd[1]@b[i = 1, seed = 0]", "crowd[seed = 0, i = 1]@b[1]"],
)  # fmt: skip
def test_a_fixed_param_is_picked_at_its_value(picked: str) -> None:
    text = FIXED.replace("loss = cross_entropy(small", "measure on digits.test { top1 } loss = cross_entropy(small")
    assert len(compiled(f"{text}export x = {picked}").plan.exports) == 1


@pytest.mark.parametrize(
    ("picked", "code"),
    [
        ("small@a[seed = 1]", "KD0415"),
        ("small@a[seed = 0..1]", "KD0415"),
        ("small@a[sede = 0]", "KD0240"),
        ("crowd[1]@b[i = 2]", "KD0402"),
    ],
)
def test_a_fixed_param_is_not_picked_at_another_value(picked: str, code: str) -> None:
    assert codes(f"{FIXED}export x = {picked}") == [code]


def test_an_index_of_the_same_name_comes_before_a_fixed_param() -> None:
    text = FIXED.replace("b[i in 0..1]", "b[seed in 0..1]").replace("crowd[i]", "crowd[seed]")
    exports = compiled(f"{text}export x = crowd[1]@b[seed = 1]").plan.exports
    assert str(exports["x"].target.versions[0].phase) == "b[seed=1]"


@pytest.mark.parametrize(("picked", "expected"), [("stored", []), ("none", ["KD0415"]), ("storde", ["KD0205"])])
def test_a_choice_is_picked_as_it_is_written(picked: str, expected: list[str]) -> None:
    text = FIXED.replace("seed = 0\n", "seed = 0\nparam kind = stored\n", 1)
    assert codes(f"{text}export x = small@a[kind = {picked}]") == expected


def test_data_exist_once_for_each_value_of_what_they_read() -> None:
    text = (
        HEAD.replace("= digits", "= digits { limit = images }")
        + """
    param images = 1000
    student small = digits_net(width = 2)
    phase a of small on digits with quick { loss = cross_entropy(small.logits, labels) }
    """
    )
    swept = compiled(text, params={"images": "[1000, 500]"})
    assert {n: d.limit for n, d in swept.plan.data.items()} == {"digits[images=1000]": 1000, "digits[images=500]": 500}
    one, other = keys(text), keys(text, params={"images": "500"})
    assert keys(text, params={"images": "[1000, 500]"}) == {"a[images=1000]": one["a"], "a[images=500]": other["a"]}
    assert set(keys(expand(swept.plan)).values()) == {one["a"], other["a"]}


def test_an_axis_passed_on_to_a_used_file_is_picked_there(tmp_path: Path) -> None:
    (tmp_path / "inner.kd").write_text(
        HEAD + "param seed = 0\nstudent small = digits_net(width = 2)\n"
        "phase a of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
        "student next = small@a[seed = 0]\n"
    )
    inner = "phase c of i.next on i.digits with i.quick { loss = cross_entropy(i.next.logits, i.digits.labels) }"
    for outer, setting, phases in (
        ("param seed in 0..1", "{ seed }", ["c[seed=0]", "c[seed=1]"]),  # of its own seeds, and of one network
        ("param seed in 0..1", "{ seed = seed }", ["c[seed=0]", "c[seed=1]"]),
        ("param seed = 0", "{ seed }", ["c"]),
        ("", "{ seed = 0 }", ["c"]),
        ("", "{ seed = [0, 1] }", ["c[seed=0]", "c[seed=1]"]),
    ):
        plan = compiled(f'{outer}\nuse "inner.kd" as i {setting}\n{inner}', tmp_path).plan
        assert [p for p in plan.phases if p.startswith("c")] == phases, (outer, setting)
        assert [p for p in plan.phases if p.startswith("a")] in (["a"], ["a[seed=0]"]), (outer, setting)


@pytest.mark.parametrize(
    ("name", "help"), [("sede", "Did you mean `seed`?"), ("nosuch", "Choose from `seed` and `weight`.")]
)
def test_an_unknown_name_is_underlined_itself(name: str, help: str) -> None:
    with pytest.raises(PlanError) as e:
        compiled(SWEPT, params={name: "3"})
    (d,) = [d for d in e.value.diagnostics if d.code == "KD0210"]
    assert d.span is not None and d.span.text == name and d.help == help
