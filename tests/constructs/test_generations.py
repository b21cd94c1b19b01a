"""`generations` against the networks and phases that somebody would write by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import inspect
from kdplan.ir import expr as ir
from kdplan.ir.origins import Copied, Fresh
from kdplan.ir.seed import fold
from kdplan.passes.expand import expand
from tests.passes.plans import BIG, HEAD, codes, compiled, keys

CE = "cross_entropy(self.logits, labels)"
BORN = f"0.6 * {CE} + 0.4 * kl(self.logits, previous.logits)"


def line(
    count: int | str = 2,
    *,
    model: str = "digits_net(width = 4)",
    first: str = "top_score_difference(self.logits, labels, u = 0.6)",
    then: str = BORN,
    more: str = "",
) -> str:
    return (
        f"generations line of {model} on digits with quick {{\n  count = {count}  {more}\n"
        f"  patriarch {{ loss = {first} }}\n  generation {{ loss = {then} }}\n}}\n"
    )


BY_HAND = """
teacher a = digits_net(width = 4) {
  phase p on digits with quick { loss = top_score_difference(self.logits, labels, u = 0.6) }
}
student b = digits_net(width = 4) {
  seed = fold(seed, 1)
  phase p on digits with quick { loss = 0.6 * cross_entropy(self.logits, labels) + 0.4 * kl(self.logits, a.logits) }
}
student c = digits_net(width = 4) {
  seed = fold(seed, 2)
  phase p on digits with quick { loss = 0.6 * cross_entropy(self.logits, labels) + 0.4 * kl(self.logits, b.logits) }
}
"""


def content(text: str) -> set[str]:
    return set(keys(HEAD + text).values())


def test_it_is_what_one_would_write() -> None:
    phase_keys = keys(HEAD + line())
    assert list(phase_keys) == [f"line[generation={m}]@train" for m in range(3)]
    assert set(phase_keys.values()) == content(BY_HAND)


def test_more_generations_are_new_phases_and_no_others() -> None:
    five, seven = keys(HEAD + line(5)), keys(HEAD + line(7))
    assert len(five) == 6 and len(seven) == 8
    assert five.items() <= seven.items()


def test_another_weight_leaves_the_first_network_alone() -> None:
    before, after = keys(HEAD + line()), keys(HEAD + line(then=BORN.replace("0.6", "0.5")))
    assert [before[n] == after[n] for n in before] == [True, False, False]


def test_the_lines_name_is_no_content() -> None:
    assert content(line()) == content(line().replace("generations line", "generations other"))


def test_a_sweep_shares_what_it_does_not_change() -> None:
    mixed = f"mix({CE}, kl(self.logits, previous.logits), weight = lambda)"
    swept = keys(HEAD + "param lambda in [0.5, 0.6]\n" + line(then=mixed))
    assert len(swept) == 1 + 2 * 2
    u = "param u in [1.0, 0.6]\n"
    both = u + "param lambda in [0.5, 0.6]\n"
    phase_keys = keys(HEAD + both + line(then=mixed, first="top_score_difference(self.logits, labels, u = u)"))
    assert len(phase_keys) == 2 + 2 * 2 * 2 and set(swept.values()) < set(phase_keys.values())


def test_coupled_records_share_equal_beginnings() -> None:
    text = """
    def plain(x) = cross_entropy(x, labels)
    def soft(x)  = top_score_difference(x, labels, u = 0.6)
    param process in [
      case(first = plain, lambda = 0.5),
      case(first = soft,  lambda = 0.6),
      case(first = soft,  lambda = 0.7)
    ]
    """
    mixed = f"mix({CE}, kl(self.logits, previous.logits), weight = process.lambda)"
    compiled_plan = compiled(HEAD + text + line(first="process.first(self.logits)", then=mixed))
    assert len(compiled_plan.plan.phases) == 9
    assert len({k.key for k in compiled_plan.keys.values()}) == 2 + 3 * 2


def test_processes_start_from_the_same_weights() -> None:
    text = "param u in [1.0, 0.6]\n" + line(first="top_score_difference(self.logits, labels, u = u)")
    plan = compiled(HEAD + text).plan
    for m in range(3):
        seeds = {n.seed for name, n in plan.networks.items() if f"generation={m}" in name}
        assert seeds == {fold(0, m) if m else 0}
    assert {p.seed for p in plan.phases.values()} == {0, fold(0, 1), fold(0, 2)}


@pytest.mark.parametrize("init", ["fresh", "same", "previous"])
def test_starts(init: str) -> None:
    plan = compiled(HEAD + line(more=f"init = {init}  seed = 5")).plan
    networks = [plan.networks[f"line[generation={m}]"] for m in range(3)]
    assert [p.seed for p in plan.phases.values()] == [5, fold(5, 1), fold(5, 2)], "batches differ in every mode"
    if init == "previous":
        origins = [str(n.origin.version) for n in networks[1:] if isinstance(n.origin, Copied)]
        assert origins == [f"line[generation={m}]@line[generation={m}]@train" for m in (0, 1)]
    else:
        assert all(isinstance(n.origin, Fresh) for n in networks)
        assert [n.seed for n in networks] == ([5, fold(5, 1), fold(5, 2)] if init == "fresh" else [5, 5, 5])


def test_the_first_network_does_not_depend_on_what_comes_after() -> None:
    first = [keys(HEAD + line(more=f"init = {i}"))["line[generation=0]@train"] for i in ("fresh", "same", "previous")]
    assert len(set(first)) == 1
    loss = "top_score_difference(self.logits, labels, u = 0.6)"
    alone = f"student x = digits_net(width = 4) {{ phase p on digits with quick {{ loss = {loss} }} }}"
    assert set(first) == content(alone)


def test_a_network_whose_weights_all_begin_with() -> None:
    plan = compiled(HEAD + BIG + line(model="small@init")).plan
    origins = [plan.networks[f"line[generation={m}]"].origin for m in range(3)]
    assert [str(o.version) for o in origins if isinstance(o, Copied)] == ["small@init"] * 3


def test_architectures_along_the_line() -> None:
    models = "model a = digits_net(width = 6)\nmodel b = digits_net(width = 4)\nmodel c = digits_net(width = 2)\n"
    listed = line(model="a, b, c")
    computed = line(model="digits_net(width = 6 - 2 * generation)")
    assert content(models + listed) == content(computed)
    assert content(models + listed.replace("count = 2", "")) == content(computed)


def test_it_begins_with_a_network_that_exists() -> None:
    text = """
    generations down of digits_net(width = 6), digits_net(width = 4) from big on digits with quick {
      generation { loss = kl(self.logits, previous.logits) }
    }
    measure t of down[*] on digits.test { top1 }
    """
    plan = compiled(HEAD + BIG + text).plan
    assert list(plan.phases) == ["big@train", "down[generation=1]@train", "down[generation=2]@train"]
    start = plan.networks["down[generation=0]"].origin
    assert isinstance(start, Copied) and str(start.version) == "big@big@train"
    widths = [plan.networks[f"down[generation={m}]"].architecture.arguments["width"] for m in (1, 2)]
    assert widths == [6, 4]


def test_the_whole_past_may_teach() -> None:
    dense = f"{CE} + sum(kl(self.logits, line[j].logits) for j in 0..generation - 1)"
    plan = compiled(HEAD + line(3, then=dense)).plan
    for m in (1, 2, 3):
        loss = plan.phases[f"line[generation={m}]@train"].loss
        read = {str(t.of) for t in ir.walk(loss) if isinstance(t, ir.Tap) and isinstance(t.of, ir.Version)}
        assert len(read) == m


def test_members_are_named_as_members_of_a_family() -> None:
    text = (
        line()
        + """
    measure a of line[*], line[0..1], line[2].features on digits.test { top1, plot(x = generation, y = top1) }
    measure b of line[1]@init, line[1]@train by generation on digits.test { top1 }
    student next = digits_net(width = 2)
    phase more of line[2] on digits with quick { loss = cross_entropy(line[2].logits, labels) }
    export last = line[2]
    """.replace("line[2].features ", "line[2] ")
    )
    plan = compiled(HEAD + text).plan
    rows = plan.measures["a"].rows
    assert [r.coordinates["generation"] for r in rows] == [0, 1, 2], "equal rows are one"
    assert {r.label for r in rows} == {"line"}
    assert str(plan.phases["more"].trainees[0].base) == "line[generation=2]@line[generation=2]@train"
    assert str(plan.exports["last"].target.versions[0]) == "line[generation=2]@line[generation=2]@train"


def test_settings_stand_at_the_line_or_in_its_parts() -> None:
    text = """
    recipe slow = quick { epochs = 7 }
    generations line of digits_net(width = 4) on digits with quick {
      count = 1
      batch = 32
      def hard(x) = cross_entropy(x, labels)
      patriarch with slow { loss = hard(self.logits)  batch = 16  measure on digits.test { top1 } }
      generation { def soft = kl(self.logits, previous.logits)  loss = hard(self.logits) + soft }
    }
    measure t of line[0][best] on digits.train { top1 }
    """
    first, second = compiled(HEAD + text).plan.phases.values()
    assert (first.recipes[0].epochs, first.recipes[0].batch, bool(first.validations)) == (7, 16, True)
    assert (second.recipes[0].epochs, second.recipes[0].batch, list(second.logged)) == (1, 32, ["soft"])


def test_recipes_go_by_position() -> None:
    text = "recipe slow = quick { epochs = 7 }\n" + line(1).replace("with quick", "with slow, quick")
    assert [p.recipes[0].epochs for p in compiled(HEAD + text).plan.phases.values()] == [7, 1]
    assert codes(HEAD + "recipe slow = quick { epochs = 7 }\n" + line(2).replace("with quick", "with slow, quick")) == [
        "KD0801"
    ]


def test_families_of_lines() -> None:
    text = line().replace("generations line of", "generations line[u in [1.0, 0.6]] of").replace("u = 0.6", "u = u")
    plan = compiled(HEAD + text + "measure t of line[0.6, *] on digits.test { top1 }\nexport e = line[1.0, 2]").plan
    assert len(plan.phases) == 6
    assert [r.coordinates for r in plan.measures["t"].rows] == [{"u": 0.6, "generation": m} for m in range(3)]
    assert codes(HEAD + text + "export e = line[2]") == ["KD0408"]


def test_seeds_are_an_axis_as_of_any_network() -> None:
    plan = compiled(HEAD + "param seed in 0..1\n" + line(1)).plan
    assert sorted(n.seed for n in plan.networks.values()) == sorted([0, 1, fold(0, 1), fold(1, 1)])


def test_a_long_line_is_no_deep_recursion() -> None:
    compiled_plan = compiled(HEAD + "export last = line[60]\n" + line(60))
    assert len(compiled_plan.plan.phases) == 61


def test_expanded_it_has_the_same_keys() -> None:
    for init in ("fresh", "same", "previous"):
        compiled_plan = compiled(
            HEAD + line(more=f"init = {init}") + "ensemble crowd[m in 0..2] of line[0..m]\nexport e = crowd[2]"
        )
        again = compiled(expand(compiled_plan.plan))
        assert {k.key for k in compiled_plan.keys.values()} == {k.key for k in again.keys.values()}
        assert expand(again.plan) == expand(compiled_plan.plan)


def test_phases_of_a_line_are_one_frame_and_no_ladder() -> None:
    features = "squared_l2(self.layer1, previous.layer1)"
    compiled_plan = compiled(HEAD + line(then=f"{CE} + {features}"))
    assert {p.construct for p in compiled_plan.plan.phases.values()} == {"line"}
    assert set(inspect(compiled_plan)) >= {"line[generation=2]@train"}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (line(first="kl(self.logits, previous.logits)"), "KD0208"),
        (line() + "export e = line[3]", "KD0402"),
        (line(first="top_score_difference(self.logits, labels, k = 11, u = 0.6)"), "KD0243"),
        (line(first="top_score_difference(self.logits, labels, u = -0.1)"), "KD0243"),
        (line(then=f"mix({CE}, kl(self.logits, previous.logits), weight = -0.5)"), "KD0243"),
        (line("1.5"), "KD0244"),
        (line(-1), "KD0243"),
        (line(then=f"{CE} + kl(self.logits, line[generation].logits)"), "KD0235"),
        (line(model="nothing"), "KD0205"),
        (
            line(model="nothing") + "measure t of line[*] on digits.test { top1, plot(x = generation, y = top1) }",
            "KD0205",
        ),
        (line() + "measure t of line on digits.test { top1 }", "KD0401"),
        (line() + "measure t of line[1]@other on digits.test { top1 }", "KD0302"),
        ("generation { loss = 1 }", "KD0215"),
        (line(then=f"{CE}  init = same"), "KD0202"),
    ],
)
def test_mistakes(text: str, code: str) -> None:
    assert code in codes(HEAD + text) or code in _graph_codes(HEAD + text)


def _graph_codes(text: str) -> list[str]:
    from kdplan.compile import check_text

    return [d.code for d in check_text(text)]


def test_the_references_line() -> None:
    """The example of the reference, which is longer than those that tables hold."""
    text = (Path(__file__).parents[2] / "grammar" / "README.md").read_text(encoding="utf-8")
    block = next(b for b in text.split("```\n") if b.startswith("generations line of digits_net") and "\n" in b.strip())
    plan = compiled(HEAD + block).plan
    rows = plan.measures["growth"].rows
    assert len(plan.phases) == 6 and [r.coordinates["generation"] for r in rows] == [*range(6), *range(6)]


def test_one_measure_for_a_whole_line() -> None:
    measure = "measure on digits.test { top1 }"

    def line(once: str, patriarch: str, generation: str) -> str:
        first = f"patriarch {{ loss = cross_entropy(self.logits, labels)  {patriarch} }}"
        next_ = f"generation {{ loss = kl(self.logits, previous.logits)  {generation} }}"
        head = "generations line of digits_net(width = 2) on digits with quick { count = 2 "
        return HEAD + f"{head} {once} {first} {next_} }}"

    assert keys(line(measure, "", "")) == keys(line("", measure, measure))
    own = compiled(line(measure, "measure on digits.test { error }", "")).plan
    assert [p.validations[0].metrics[0].name for p in own.phases.values()] == ["error", "top1", "top1"]
