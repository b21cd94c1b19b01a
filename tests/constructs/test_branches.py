"""`branches` and `branched`: what they lower to, their keys, their taps, and the cost of what they make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdplan.compile import check_text, inspect
from kdplan.ir import expr as ir
from kdplan.ir.branches import branches
from kdplan.ir.origins import Copied, Fresh
from kdplan.nn.models import create
from kdplan.passes.expand import expand
from kdplan.runtime.measures.metrics import network_number
from tests.passes.plans import BIG, HEAD, codes, compiled, keys, taps

LOSS = "sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)"
IMITATE = "9 * sum(kl(b.logits, gated.logits, temperature = 3) for b in branch)"


def one(
    of: str = "digits_net(width = 2)", at: str = "layer2", more: str = "", loss: str = f"{LOSS} + {IMITATE}"
) -> str:
    return f"{HEAD}branches one of {of} from {at} on digits with quick {{ {more}\n  loss = {loss} }}\n"


def test_it_is_a_network_with_one_phase() -> None:
    plan = compiled(one(more="count = 4  gate = mean")).plan
    network = plan.networks["one"]
    assert branches(network) == 4
    assert isinstance(network.origin, Fresh)
    assert list(plan.phases) == ["one@train"]
    paths = [t.path for t in taps(plan.phases["one@train"].loss)]
    assert set(paths) == {"logits", *(f"branch.{i}.logits" for i in range(4))}


def test_the_core_form_has_the_same_key() -> None:
    core = (
        HEAD + "student one = branched(digits_net(width = 2), from = layer2, count = 3, shape = [1, 8, 8])\n"
        "phase p of one on digits with quick { loss = sum(cross_entropy(b.logits, labels) for b in one.branch[*]) "
        "+ cross_entropy(one.gated.logits, labels) + 9 * sum(kl(one.branch[i].logits, one.gated.logits, "
        "temperature = 3) for i in 0..2) }\n"
    )
    assert keys(core)["p"] == keys(one())["one@train"] == keys(one(more="count = 3  gate = gate()"))["one@train"]


def test_what_enters_the_key() -> None:
    all_keys = [keys(one())] + [keys(t) for t in (one(more="count = 2"), one(more="gate = mean"), one(at="layer1"),
             one(more="seed = 1"), one(of="digits_net(width = 3)"), one(loss=LOSS))]  # fmt: skip
    assert len({k["one@train"] for k in all_keys}) == len(all_keys)


def test_of_a_fresh_network_it_has_its_architecture_and_seed() -> None:
    net = "student net = digits_net(width = 2) { seed = 5 }\n"
    text = one(of="net", at="net.layer2").replace(HEAD, HEAD + net)
    assert keys(text)["one@train"] == keys(one(more="seed = 5"))["one@train"]
    assert keys(one(of="net", more="seed = 6").replace(HEAD, HEAD + net)) != keys(text)


def test_of_a_trained_network_it_begins_with_its_weights() -> None:
    text = one(of="big").replace(HEAD, HEAD + BIG)
    compiled_plan = compiled(text)
    origin = compiled_plan.plan.networks["one"].origin
    assert isinstance(origin, Copied) and origin.grown and str(origin.version) == "big@big@train"
    assert list(compiled_plan.dag.predecessors("one@train")) == ["big@train"]
    assert keys(text)["one@train"] != keys(one(of="big", more="seed = 1").replace(HEAD, HEAD + BIG))["one@train"]
    assert "one@train" in inspect(compiled_plan)


def test_branches_are_plain_networks_where_they_are_read() -> None:
    text = one() + (
        "measure t of one.branch[*], one.branch[1].features, one.gated, one on digits.test { flops }\n"
        "export second = one.branch[1]\nexport whole = one.gated\nstudent next = one.branch[0]\n"
        "ensemble pair of one.branch[0], one.branch[2]\n"
    )
    plan = compiled(text).plan
    rows = plan.measures["t"].rows
    assert [r.coordinates.get("branch") for r in rows] == [0, 1, 2, 1, None, None]
    assert [r.label for r in rows] == ["one.branch"] * 3 + ["one.branch.features", "one.gated", "one"]
    origins = [plan.networks[r.target.versions[0].network].origin for r in rows[:3]]
    assert [o.branch for o in origins if isinstance(o, Copied)] == [0, 1, 2]
    assert rows[4].target.versions == rows[5].target.versions and not rows[4].target.path
    second = plan.networks[plan.exports["second"].target.versions[0].network]
    assert second.architecture.name == "digits_net" and second.architecture.arguments == {"width": 2}
    assert plan.networks["next"].origin == Copied(ir.Version("one", "one@train"), 0)
    assert keys(text)["one@train"] == keys(one())["one@train"], "what is handed out is no content"


def test_families_and_sweeps() -> None:
    text = HEAD + (
        "param w in [1, 9]\n"
        "branches one[c in 1..3] of digits_net(width = 2) from layer2 on digits with quick {\n"
        f"  count = c\n  loss = {LOSS} + w * sum(kl(b.logits, gated.logits) for b in branch)\n}}\n"
        "measure t of one[*].branch[0] by w on digits.test { error, plot(x = c, y = error) }\n"
    )
    plan = compiled(text).plan
    assert [branches(n) for n in plan.networks.values() if n.name.startswith("one[")] == [1, 2, 3, 1, 2, 3]
    assert {r.coordinates["c"] for r in plan.measures["t"].rows} == {1, 2, 3}
    assert all(r.coordinates["branch"] == 0 for r in plan.measures["t"].rows)


def test_expanded_it_is_the_same() -> None:
    text = one(of="big", more="count = 2").replace(HEAD, HEAD + BIG) + (
        "branches two of digits_net(width = 2) from stem.bn on digits with quick "
        f"{{ seed = 3  loss = {LOSS} }}\n"
        "student next = two.branch[1]\n"
        "phase more of next on digits with quick { loss = kl(next.logits, two.branch[0].logits) }\n"
        "phase last of two@train.branch[1] on digits with quick "
        "{ loss = cross_entropy(two.branch[1].logits, labels) }\n"
        "measure t of two.branch[*], one.gated on digits.test { error }\nexport x = two.branch[1]\n"
        "phase seen of two@train on digits with quick { loss = cross_entropy(two.logits, labels) "
        "measure of two.branch[1], two.gate, two on digits.test { mean } }\n"
    )
    again = expand(compiled(text).plan)
    assert sorted(keys(again).values()) == sorted(keys(text).values())
    assert expand(compiled(again).plan) == again


def test_own_gates(tmp_path: Path) -> None:
    (tmp_path / "gates.py").write_text(
        "from torch import nn\ndef gate(count): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(4, count), nn.Softmax(dim=1))\n"
    )
    text = 'use "gates.py" as my\n' + one(more="count = 2  gate = my.gate(count = 2)")
    before = keys(text, tmp_path)
    assert "one@train" in inspect(compiled(text, tmp_path))
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / "gates.py").write_text((tmp_path / "gates.py").read_text())
    assert keys(text, other) == before, "where the file is does not count"
    assert sorted(keys(expand(compiled(text, tmp_path).plan), tmp_path).values()) == sorted(before.values())
    (other / "gates.py").write_text((tmp_path / "gates.py").read_text() + "# other\n")
    assert keys(text, other) != before


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (one(more="count = 0"), "KD0243"),
        (one(more="count = 2.5"), "KD0249"),
        (one(more="gate = max"), "KD0244"),
        (one(loss=f"{LOSS} + kl(branch[0].logits, gated.logits, temperature = 0)"), "KD0243"),
        (one(loss=f"{LOSS} + kl(branch[0].logits, gated.logits, temperature = -1)"), "KD0243"),
        (one() + "export x = one.branch[3]", "KD0402"),
        (one() + "export x = one.branch[seed = 1]", "KD0409"),
        (one() + "measure m of one.branch[2..3] on digits.test { error }", "KD0402"),
        (one() + "export x = one.branch[*]", "KD0404"),
        (one() + "export x = one@train.branch", "KD0401"),
        (one(loss=f"{LOSS} + mean(self.branch.logits)"), "KD0401"),
        (one(more='seed = "a"'), "KD0244"),
        (one(more="measure of branch[3] on digits.test { error }"), "KD0402"),
        (one(more="measure of self.branch on digits.test { error }"), "KD0401"),
        (HEAD + BIG + "phase p of small on digits with quick { loss = cross_entropy(gated.logits, labels) }", "KD0208"),
        (HEAD + "student s = branched(digits_net(), from = layer2)", "KD0237"),
        (HEAD + "student s = branched(digits_net(), at = layer2, shape = [1, 8, 8])", "KD0230"),
        (HEAD + "student s = branched(digits_net(), from = layer2, shape = 8)", "KD0244"),
        (HEAD + "student s = branched(digits_net(), from = layer2, count = 0, shape = [1, 8, 8])", "KD0243"),
    ],
)
def test_mistakes(text: str, code: str) -> None:
    assert codes(text) == [code]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (one(at="layer9"), "KD0501"),
        (one(of="cifar_resnet(depth = 8, channels = 1)", at="layer2[0].bn2"), "KD0516"),
        (one(loss="sum(cross_entropy(b.logits, labels) for b in branch)"), "KD0601"),
        (one(more="measure of self.gate on digits.test { mean(3) }"), "KD0840"),
        (one(more="measure of branch[0].nothing on digits.test { mean }"), "KD0501"),
        (one(loss="sum(cross_entropy(b.layer2, labels) for b in branch)"), "KD0506"),
    ],
)
def test_mistakes_of_graphs(text: str, code: str) -> None:
    assert {d.code for d in check_text(text)} == {code}


def test_each_branch_is_a_head_of_its_own_in_the_graph() -> None:
    inspected = inspect(compiled(one()))["one@train"]
    calls = [str(n.target) for n in inspected.joined.graph_module.graph.nodes if n.op == "call_module"]
    assert sum(c.endswith("stem.conv") for c in calls) == 1
    assert sum(c.endswith(".fc") for c in calls) == 4, "three branches and the gate"


def test_cost_is_that_of_the_paper() -> None:
    """1e8 operations a sample: ResNet-32 1.38, with three branches 2.28 (Table 5 of the paper); two peers 2.76."""
    shape, device = [3, 32, 32], torch.device("cpu")
    base = ["cifar_resnet", {"depth": 32, "classes": 100, "shortcut": "projection"}]
    plain = create(base[0], **base[1]).eval()  # type: ignore[arg-type]
    net = create("kdplan.graph.branched:branched", base=base, at="layer3", count=3, gate=["gate", {}], shape=shape)
    alone = network_number("flops", [plain], shape, device)
    together = network_number("flops", [net.eval()], shape, device)
    assert round(alone / 1e8, 2) == 1.38
    assert round(together / 1e8, 2) == 2.28
    assert round(2 * alone / 1e8, 2) in (2.76, 2.77)


PEERS = """
student a = digits_net(width = 2)
student b = digits_net(width = 2) { seed = fold(seed, 1) }
phase dml of a, b on digits with quick {
  loss = cross_entropy(a.logits, labels) + kl(a.logits, detach(b.logits))
       + cross_entropy(b.logits, labels) + kl(b.logits, detach(a.logits))
}
"""


def test_mutual_learning_needs_no_construct() -> None:
    """Peers of one phase; equal ones must begin with other weights."""
    inspected = inspect(compiled(HEAD + PEERS))["dml"]
    assert len(inspected.joined.own) == 2
    assert codes(HEAD + PEERS.replace(" { seed = fold(seed, 1) }", "")) == ["KD0305"]


def test_the_weight_of_a_term_may_rise() -> None:
    """As the authors' code has it: from exp(-5) to 1 in 80 epochs, with a teacher that gets no gradient."""
    rising = "exp(-5 * (1 - min(epoch / 80, 1)) ** 2)"
    term = "9 * sum(kl(b.logits, detach(gated.logits), temperature = 3) for b in branch)"
    graph = inspect(compiled(one(loss=f"{LOSS} + {rising} * {term}")))["one@train"].joined.graph_module
    assert "epoch" in {n.name for n in graph.graph.nodes if n.op == "placeholder"}
    assert keys(one(loss=f"{LOSS} + {rising} * {term}")) != keys(one())


@pytest.mark.parametrize(
    "name", ["half", "type", "train", "forward", "parameters", "class", "lambda", "None_", "weight"]
)
def test_odd_names_of_constructs(name: str) -> None:
    """Keywords of Python and attributes of torch's modules are names like others, in stages and in branches."""
    text = f"""
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1 }}
student small = digits_net(width = 2)
teacher big = digits_net(width = 4) {{
  phase train on digits with quick {{ loss = cross_entropy(self.logits, labels) }}
}}
branches {name} of digits_net(width = 2) from layer2 on digits with quick {{
  count = 2
  loss  = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
}}
stages {name}_s of small from big on digits with quick {{
  stage {name} {{ small.layer1 ~ big.layer1 }}
  head {{ loss = cross_entropy(small.logits, labels) }}
}}
measure m of {name}.branch[0], small@{name}_s@{name} on digits.test {{ parameters }}
"""
    found = [d for d in check_text(text) if d.severity == "error"]
    assert found == []
