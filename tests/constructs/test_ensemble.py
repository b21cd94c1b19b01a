"""`ensemble`: one network that is the mean of several."""

from __future__ import annotations

import pytest

from kdplan.compile import check_text, inspect
from kdplan.ir import expr as ir
from kdplan.ir.origins import Ensembled
from kdplan.ir.plan import Network
from kdplan.passes.expand import expand
from tests.passes.plans import BIG, HEAD, codes, compiled, keys

CROWD = """
teacher t[i in 0..2] = digits_net(width = 2 + i) {
  seed = fold(seed, i)
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""


SMALL = "student small = digits_net(width = 2)\n"


def kd(loss: str) -> str:
    return f"phase kd of small on digits with quick {{ loss = {loss} }}"


def members(network: Network) -> list[ir.Version]:
    assert isinstance(network.origin, Ensembled)
    return network.origin.versions


def origin(text: str, name: str = "crowd") -> Ensembled:
    ensembled = compiled(HEAD + CROWD + text).plan.networks[name].origin
    assert isinstance(ensembled, Ensembled)
    return ensembled


def test_members_are_versions_of_any_architecture() -> None:
    ensembled = origin("ensemble crowd of t[*]")
    assert [str(v) for v in ensembled.versions] == [f"t[i={i}]@t[i={i}]@train" for i in range(3)]
    assert ensembled.mean == "probabilities"
    assert origin("ensemble crowd of t[0], t[2] { mean = logits }").mean == "logits"
    assert origin("network crowd = ensemble(t[0], t[2], mean = logits)") == origin(
        "ensemble crowd of t[0], t[2] { mean = logits }"
    )


def test_cumulative_families() -> None:
    plan = compiled(
        HEAD + CROWD + "ensemble upto2[m in 0..2] of t[0..m]\nmeasure g of upto2[*] on digits.test { top1 }"
    ).plan
    sizes = [len(members(plan.networks[f"upto2[m={m}]"])) for m in range(3)]
    assert sizes == [1, 2, 3]
    assert [r.coordinates for r in plan.measures["g"].rows] == [{"m": m} for m in range(3)]


def test_it_trains_nothing_and_changes_no_key() -> None:
    assert keys(HEAD + CROWD) == keys(
        HEAD + CROWD + "ensemble crowd of t[*]\nmeasure g of crowd on digits.test { top1 }"
    )


def test_as_a_teacher_it_is_read_and_waited_for() -> None:
    text = SMALL + "ensemble crowd of t[*]\n" + kd("kd(small.logits, crowd.logits, temperature = 2)")
    compiled_plan = compiled(HEAD + CROWD + text)
    assert set(compiled_plan.dag.predecessors("kd")) == {f"t[i={i}]@train" for i in range(3)}
    joined = inspect(compiled_plan)["kd"].joined
    teacher = [n for n in joined.graph_module.graph.nodes if n.meta.get("owner") == "net crowd@init"]
    assert len({str(n.target).partition(".members.")[2][:1] for n in teacher if "members" in str(n.target)}) == 3
    inline = HEAD + CROWD + SMALL + kd("kd(small.logits, ensemble(t[*]).logits, temperature = 2)")
    assert keys(inline)["kd"] == keys(HEAD + CROWD + text)["kd"], "its name is no content"


def test_what_it_is_enters_the_keys_of_those_who_learn_from_it() -> None:
    base = SMALL + "ensemble crowd of t[0], t[1] { mean = probabilities }\n" + kd("kl(small.logits, crowd.logits)")
    changed = [base, base.replace("= probabilities", "= logits"), base.replace("t[1]", "t[2]")]
    assert len({keys(HEAD + CROWD + text)["kd"] for text in changed}) == 3
    assert keys(HEAD + CROWD + base.replace("{ mean = probabilities }", ""))["kd"] == keys(HEAD + CROWD + base)["kd"]


def test_snapshots_of_cycles() -> None:
    cyclic = """
    recipe cyclic = quick { schedule = cosine(cycles = 3)  epochs = 6 }
    teacher one = digits_net(width = 2) {
      phase train on digits with cyclic { loss = cross_entropy(self.logits, labels) }
    }
    """
    assert [v.snapshot for v in origin(cyclic + "ensemble crowd of one[cycle = *]").versions] == [
        "cycle=1",
        "cycle=2",
        "cycle=3",
    ]
    assert [v.snapshot for v in origin(cyclic + "ensemble crowd of one@train[cycle = 2..3]").versions] == [
        "cycle=2",
        "cycle=3",
    ]
    plan = compiled(
        HEAD + cyclic + "measure g of one[cycle = *] on digits.test { top1, plot(x = cycle, y = top1) }"
    ).plan
    assert [(r.label, r.coordinates) for r in plan.measures["g"].rows] == [("one", {"cycle": c}) for c in (1, 2, 3)]


def test_epochs_of_a_family() -> None:
    text = """
    recipe often = quick { epochs = 4  keep_epochs = [1, 3] }
    student small[i in 0..1] = digits_net(width = 2 + i)
    phase kd[i in 0..1] of small[i] on digits with often { loss = cross_entropy(small[i].logits, labels) }
    ensemble crowd of small[0]@kd[0][epoch = *]
    """
    assert [v.snapshot for v in origin(text).versions] == ["epoch=1", "epoch=3"]
    assert codes(HEAD + CROWD + text.replace("epoch = *", "cycle = *")) == ["KD0309"]


def test_classes_in_another_order_are_put_in_order() -> None:
    text = """
    verticals turned of digits { back = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"] }
    teacher a = digits_net(width = 2, classes = digits.classes) {
      phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
    }
    teacher b = digits_net(width = 3, classes = turned[back]) {
      phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
    }
    ensemble crowd of a, b
    """
    plan = compiled(HEAD + text).plan
    untold = compiled(HEAD + text.replace(", classes = digits.classes", "").replace("of a, b", "of b, a")).plan
    assert untold.networks["crowd"].architecture.arguments["orders"] == [None, list(range(9, -1, -1))]
    assert plan.networks["crowd"].architecture.arguments["orders"] == [None, list(range(9, -1, -1))]
    assert plan.networks["crowd"].classes == plan.networks["a"].classes


def test_it_moves_as_any_network_does() -> None:
    text = """
    ensemble crowd of t[*]
    phase tune of crowd on digits with quick { loss = cross_entropy(crowd.logits, labels) }
    export e = crowd@tune
    """
    compiled_plan = compiled(HEAD + CROWD + text)
    assert len(inspect(compiled_plan)["tune"].joined.own[0]) == 3 * 11, "weights of all three"


def test_expanded_it_is_the_same() -> None:
    text = SMALL + "ensemble crowd of t[*] { mean = logits }\nexport e = crowd\n" + kd("kl(small.logits, crowd.logits)")
    compiled_plan = compiled(HEAD + CROWD + text)
    again = compiled(expand(compiled_plan.plan))
    assert {k.key for k in compiled_plan.keys.values()} == {k.key for k in again.keys.values()}
    assert expand(again.plan) == expand(compiled_plan.plan)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("ensemble crowd of t[0], t[0]", "KD0311"),
        ("ensemble crowd of big, ensemble(t[*]), other", "KD0274"),
        ("ensemble crowd of small", "KD0301"),
        ("ensemble crowd of big.layer1", "KD0250"),
        ("ensemble crowd of t", "KD0401"),
        ("ensemble crowd of big, t[0] { mean = median }", "KD0245"),
        ("network crowd = ensemble(big, t[0], middle = logits)", "KD0230"),
        ("ensemble crowd[m in 0..1] of big, t[0]", "KD0306"),
        ("ensemble crowd of big, t[0]\n" + kd("mean(crowd.features) + mean(small.logits)"), "KD0501"),
    ],
)
def test_mistakes(text: str, code: str) -> None:
    other = "teacher other = digits_net(classes = 4) { phase p on digits with quick { loss = mean(self.logits) } }\n"
    assert [d.code for d in check_text(HEAD + BIG + CROWD + other + text)] == [code]


def test_ensembles_of_ensembles() -> None:
    text = "ensemble some of t[0], t[1]\nensemble all of some, t[2]\nexport e = all"
    plan = compiled(HEAD + CROWD + text).plan
    assert [str(v) for v in members(plan.networks["all"])] == ["some@init", "t[i=2]@t[i=2]@train"]
    assert len(members(plan.networks["some"])) == 2


PARTS = """
verticals part of digits { disjoint = false  high = [9, 5, 6, 7, 8]  low = 0..5 }
teacher p[v in part] = digits_net(width = 2, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
"""


def test_scores_of_different_classes_side_by_side() -> None:
    text = HEAD + PARTS + "ensemble voters of p[*] { join = concat }\n"
    compiled_plan = compiled(text + "measure m of voters on digits.test, digits[part[0]].test { top1 }\n")
    network = compiled_plan.plan.networks["voters"]
    assert network.classes is not None and network.classes.ids == [*range(10)]
    assert network.architecture.arguments["orders"] == [[5], [6], [7], [8], [9], [1, 10], [2], [3], [4], [0]]
    assert expand(compiled(core := expand(compiled_plan.plan)).plan) == core and "join = concat" in core
    assert sorted(keys(core).values()) == sorted(keys(text).values())
    assert codes(HEAD + PARTS + "ensemble voters of p[*]") == ["KD0274"]
    assert codes(HEAD + PARTS + SMALL + "ensemble voters of p[0], small@init { join = concat }") == ["KD0274"]


def test_unions_of_classes() -> None:
    text = HEAD + PARTS + "student s = digits_net(classes = union(part[*]))\n"
    text += "student h = digits_net(classes = union(part[0]))"
    networks = compiled(text).plan.networks
    assert [n.classes.ids for k, n in networks.items() if k in "sh" and n.classes] == [[*range(10)], [5, 6, 7, 8, 9]]
    assert codes(HEAD + PARTS + "student s = digits_net(classes = union(part[0], 3))") == ["KD0249"]
