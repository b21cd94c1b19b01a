"""Keys hash content: whatever changes no content changes no key, and a change reaches exactly what follows from it."""

from __future__ import annotations

from collections import Counter

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.compile import compile_plan
from kdplan.diagnostics.span import Source
from kdplan.syntax.format import format_text
from tests.passes.plans import Decl, Model, bag, compiled, keys, models

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
