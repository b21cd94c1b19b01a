"""Keys hash content: whatever changes no content changes no key, and a change reaches exactly what follows from it."""

from __future__ import annotations

from collections import Counter

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.compile import compile_plan
from kdplan.diagnostics.span import Source
from kdplan.syntax.format import format_text
from tests.passes.plans import BIG, HEAD, Decl, Model, bag, compiled, keys, models

few = settings(max_examples=25, deadline=None, derandomize=True)


@few
@given(models(), st.data())
def test_order_changes_no_key(model: Model, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(model.declarations))))
    assert keys(model.reordered(order).text()) == keys(model.text())


@few
@given(models())
def test_names_change_no_key(model: Model) -> None:
    assert bag(model.renamed("_x").text()) == bag(model.text())


@few
@given(models(), st.integers(0, 100))
def test_declarations_that_are_added_change_no_key(model: Model, number: int) -> None:
    first = model.phases()[0]
    network = next(d for d in model.declarations if d.name == "n0")
    more = (
        Decl("student", "extra", "student <extra> = digits_net(width = 9)"),
        Decl("phase", "pre", "phase <pre> of <n0> on <d> with <r> { loss = # * mean(<n0>.logits) }", number + 100),
        Decl("phase", "xp", "phase <xp> of <extra> on <d> with <r> { loss = # * mean(<extra>.logits) }", number + 300),
    )
    assert network and first
    before = keys(model.text())
    after = keys(Model((*more, *model.declarations)).text())
    assert {name: after[name] for name in before} == before


@few
@given(models())
def test_layout_and_comments_change_no_key(model: Model) -> None:
    text = model.text()
    assert keys(format_text(Source("plan.kd", text))) == keys(text)
    assert keys("# why\n" + text.replace("{", "{ # a comment\n").replace(" with", "\n\n   with")) == keys(text)


@few
@given(models(), st.data())
def test_a_change_reaches_the_phase_and_what_reads_it_and_nothing_else(model: Model, data: st.DataObject) -> None:
    changed = data.draw(st.sampled_from(model.phases()))
    before = compiled(model.text())
    own = {name for name in before.plan.phases if name.partition("[")[0] == changed}
    expected = own | {d for name in own for d in nx.descendants(before.dag, name)}
    after = keys(model.changed(changed).text())
    assert {name for name, k in before.keys.items() if after[name] != k.key} == expected


@few
@given(models())
def test_compiling_the_core_plan_again_gives_the_same_keys(model: Model) -> None:
    first = compiled(model.text())
    again = compile_plan(first.plan)
    assert Counter(k.key for k in again.keys.values()) == Counter(k.key for k in first.keys.values())


ONE_VALUE = {
    "cross_entropy({}, labels)": ("small.logits", "small.output", "small(inputs)", "small(inputs).logits"),
    "kd(small.logits, {})": ("big.logits", "big.output", "big(inputs)", "big@train.logits"),
    "mean(through(small.layer1, {}, from = layer1))": ("small.logits", "small.output"),
    "mean(small.fc({}))": ("small.features", "small(inputs).features"),
}


def _key(loss: str = "mean(small.logits)", of: str = "small", measure: str = "") -> str:
    return keys(f"{HEAD}{BIG}phase p of {of} on digits with quick {{ {measure} loss = {loss} }}\n")["p"]


@pytest.mark.parametrize("loss", ONE_VALUE)
def test_names_of_one_value_have_one_key(loss: str) -> None:
    assert len({_key(loss.format(word)) for word in ONE_VALUE[loss]}) == 1


def test_names_of_one_value_have_one_key_where_a_phase_names_it() -> None:
    words = ("small.logits", "small.output")
    assert len({_key(of=f"upto({word})") for word in words}) == 1
    assert len({_key(of=f"upto({word}, from = layer1)") for word in words}) == 1
    assert len({_key(measure=f"measure of {word} on digits.test {{ top1 }}") for word in words}) == 1
