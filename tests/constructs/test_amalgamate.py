"""`amalgamate` against the networks and phases that somebody would write by hand; layers, classes, orders, teachers."""

from __future__ import annotations

from pathlib import Path

import networkx as nx
import pytest

from kdplan.compile import check_text, inspect
from kdplan.ir import expr as ir
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.origins import Merged
from kdplan.passes.expand import expand
from tests.passes.plans import HEAD, calls, codes, compiled, keys, taps

TEACHERS = """
verticals half of digits = random(parts = 2, seed = 0)
teacher t[v in half] = digits_net(width = 4, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student both = digits_net(width = 6, classes = digits.classes)
"""
FOUR = TEACHERS.replace("parts = 2", "parts = 4").replace("width = 6", "width = 7")


def ka(more: str = "", source: str = "t[*]", teachers: str = TEACHERS, of: str = "both", name: str = "ka") -> str:
    return f"{HEAD}{teachers}" + construct(more, source, of, name)


def construct(more: str = "", source: str = "t[*]", of: str = "both", name: str = "ka") -> str:
    return f"amalgamate {name} of {of} from {source} on digits with quick {{ {more} }}\n"


BY_HAND = """
def stem = concat(t[0].stem.conv, t[1].stem.conv)
def layer = concat(t[0].layer1[0].conv, t[1].layer1[0].conv)
def scores = concat(t[0].logits, t[1].logits)
network c1 = autoencoder(inputs = 8, code = 6)
network c2 = autoencoder(inputs = 16, code = 12)
phase a1 of c1 on digits.unlabelled with quick { loss = 0.5 * squared_l2(c1(stem).output, stem) }
phase a2 of c2 on digits.unlabelled with quick { loss = 0.5 * squared_l2(c2(layer).output, layer) }
student s = adapted(both, behind = [stem.conv, layer1[0].conv], shape = [1, 8, 8])
phase l1 of upto(s.stem.conv.layer) on digits.unlabelled with quick {
  loss = 0.5 * squared_l2(s.stem.conv.layer, c1@a1(stem).code)
}
phase l2 of upto(s.layer1[0].conv.layer, from = s.stem.conv.layer) on digits.unlabelled with quick {
  def found = through(c1@a1(stem).code, s.layer1[0].conv.layer, from = s.stem.conv.layer)
  loss = 0.5 * squared_l2(found, c2@a2(layer).code)
}
phase l3 of upto(s.logits, from = s.layer1[0].conv.layer) on digits.unlabelled with quick {
  loss = 0.5 * squared_l2(through(c2@a2(layer).code, s.logits, from = s.layer1[0].conv.layer), scores)
}
student m = merge(s@l1, s@l2, s@l3)
phase joint of m on digits.unlabelled with quick { loss = 0.5 * squared_l2(m.logits, scores) }
"""
TWO = "layers = [stem.conv, layer1[0].conv]"


def test_it_is_what_somebody_would_write_by_hand() -> None:
    phase_keys, hand = keys(ka(TWO)), keys(HEAD + TEACHERS + BY_HAND)
    names = ["code_stem_conv", "code_layer1_0_conv", "stem_conv", "layer1_0_conv", "scores", "joint"]
    assert [phase_keys[f"ka@{n}"] for n in names] == [hand[n] for n in ("a1", "a2", "l1", "l2", "l3", "joint")]
    assert phase_keys.keys() == {"t[v=part0]@train", "t[v=part1]@train", *(f"ka@{n}" for n in names)}


def test_its_expansion_has_the_same_keys() -> None:
    for more in ("", "features = incremental  order = [1, 0]", "adapt = none  match = mse", TWO):
        text = ka(more) + "measure m of both@ka, both@ka@layerwise on digits.test { top1 }\nexport e = both@ka\n"
        core = expand(compiled(text).plan)
        assert "amalgamate" not in core
        assert sorted(keys(core).values()) == sorted(keys(text).values())
        assert expand(compiled(core).plan) == core


def test_phases_wait_only_for_what_they_read() -> None:
    compiled_plan = compiled(ka())
    codes_of = [f"ka@code_{n}" for n in ("stem_conv", "layer1_0_conv", "layer2_0_conv")]
    layers = [f"ka@{n}" for n in ("stem_conv", "layer1_0_conv", "layer2_0_conv", "scores")]
    teachers = {"t[v=part0]@train", "t[v=part1]@train"}
    assert all(set(compiled_plan.dag.predecessors(c)) == teachers for c in codes_of)
    assert set(compiled_plan.dag.predecessors(layers[0])) == {codes_of[0], *teachers}
    assert set(compiled_plan.dag.predecessors(layers[1])) == {codes_of[0], codes_of[1], *teachers}
    assert set(compiled_plan.dag.predecessors(layers[3])) == {codes_of[2], *teachers}
    assert set(layers) <= set(compiled_plan.dag.predecessors("ka@joint"))
    assert not any(nx.has_path(compiled_plan.dag, a, b) for a in layers for b in layers if a != b)
    assert [p for p in compiled_plan.plan.phases if p.startswith("ka")] == [*codes_of, *layers, "ka@joint"]
    assert len(inspect(compiled_plan)) == 10


def test_versions() -> None:
    compiled_plan = compiled(ka() + "measure m of both@ka, both@ka@layerwise, both@ka@scores on digits.test { top1 }\n")
    joint, layerwise, scores = (r.target.versions[0] for r in compiled_plan.plan.measures["m"].rows)
    assert (joint.network, joint.phase) == ("ka.layerwise", "ka@joint")
    assert (layerwise.network, layerwise.phase) == ("ka.layerwise", None)
    assert (scores.network, scores.phase) == ("ka.fitted", "ka@scores")
    assert [r.label for r in compiled_plan.plan.measures["m"].rows] == [
        "both@ka",
        "both@ka@layerwise",
        "both@ka@scores",
    ]
    assert isinstance(compiled_plan.plan.networks["ka.layerwise"].origin, Merged)
    more = "student next = both@ka\nphase p of both@ka.fc on digits with quick { loss = mean(both.logits) }"
    plan = compiled(ka() + more).plan
    assert plan.networks["next"].architecture.name == ADAPTED
    assert codes(ka() + "export e = both@ka@nothing") == ["KD0302"]


def test_without_maps_the_student_is_itself() -> None:
    plan = compiled(ka("adapt = none")).plan
    assert "ka.fitted" not in plan.networks
    assert plan.phases["ka@layer1_0_conv"].trainees[0].upto == ["layer1.0.conv"]


def test_families_and_seeds() -> None:
    text = "param seed in [0, 1]\n" + HEAD + FOUR
    text += "student some[n in 2..4] = digits_net(width = 7, classes = union(half[0..n - 1]))\n"
    text += "amalgamate more[n in 2..4] of some[n] from t[0..n - 1] on digits with quick\n"
    phase_keys = keys(text + "measure m of some[2]@more[2], some[3]@more[3]@layerwise on digits[half[0]].test { top1 }")
    assert len([n for n in phase_keys if n.endswith("@joint")]) == 6


# ---- features


def test_incremental_amalgamation_goes_pair_by_pair() -> None:
    plan = compiled(ka("features = incremental  order = [2, 0, 1, 3]", teachers=FOUR)).plan
    names = [n for n in plan.networks if "coder_stem" in n]
    assert names == ["ka.coder_stem_conv_1", "ka.coder_stem_conv_2", "ka.coder_stem_conv"]
    sizes = [(a["inputs"], a["code"]) for n in names if (a := plan.networks[n].architecture.arguments)]
    assert sizes == [(8, 7), (11, 7), (11, 7)]
    first = taps(plan.phases["ka@code_stem_conv_1"].loss)
    assert {t.of.network for t in first if isinstance(t.of, ir.Version)} == {"t[v=part2]", "t[v=part0]"}
    assert codes(ka("features = incremental  order = [0, 0]")) == ["KD0299"]


def test_one_more_teacher_needs_one_more_auto_encoder_a_layer() -> None:
    students = HEAD + FOUR + "student three = digits_net(width = 7, classes = union(half[0..2]))\n"
    text = students + construct("features = incremental", "t[0..2]", "three", "few")
    more = students + construct("features = incremental", "t[*]", name="all")
    before, after = keys(text), keys(more)
    code = {n: k for n, k in after.items() if "code_" in n}
    new = {n for n, k in code.items() if k not in before.values()}
    assert new == {"all@code_stem_conv", "all@code_layer1_0_conv", "all@code_layer2_0_conv"} and len(code) == 9
    direct = keys(text.replace("incremental", "direct")), keys(more.replace("incremental", "direct"))
    assert not {k for n, k in direct[1].items() if "code_" in n} & {*direct[0].values()}


def test_automatic_layers_are_those_with_weights() -> None:
    compiled_plan = compiled(ka(teachers=TEACHERS.replace("digits_net(width = 6", "mlp(inputs = 64, hidden = [30, 20]")
                       .replace("digits_net(width = 4", "mlp(inputs = 64, hidden = [20, 12]")))  # fmt: skip
    assert [n for n in compiled_plan.plan.phases if n.startswith("ka@") and "code" not in n] == [
        "ka@layer1_linear", "ka@layer2_linear", "ka@scores", "ka@joint"]  # fmt: skip
    blocks = TEACHERS.replace("digits_net(width", "cifar_resnet(depth = 8, channels = 1, width")
    blocks = blocks.replace("width = 4", "width = 0.5").replace("width = 6", "width = 0.75")
    compiled_plan = compiled(ka(teachers=blocks))
    assert [n for n in compiled_plan.plan.phases if n.startswith("ka@code")] == [
        "ka@code_conv1", "ka@code_layer1_0", "ka@code_layer2_0", "ka@code_layer3_0"]  # fmt: skip
    inspect(compiled_plan)


def test_widths_outside_are_warned_of() -> None:
    for width, warns in ((4, True), (5, False), (7, False), (8, True)):
        codes = [d.code for d in check_text(ka(teachers=TEACHERS.replace("width = 6", f"width = {width}")))]
        assert codes == (["KD0297"] if warns else [])


# ---- classes


OVERLAP = TEACHERS.replace("half of digits = random(parts = 2, seed = 0)",
                           "half of digits { disjoint = false  left = [3, 0, 1, 2, 4, 5]  right = 4..9 }")  # fmt: skip


def test_a_class_of_two_teachers_has_two_entries() -> None:
    plan = compiled(ka(teachers=OVERLAP)).plan
    item = plan.networks["ka.fitted"].architecture
    assert item.arguments["entries"] == ["fc", [3, 0, 1, 2, 4, 5, 4, 5, 6, 7, 8, 9]]
    assert item.arguments["base"][1]["classes"] == 12
    paths = [t.path for t in taps(plan.phases["ka@joint"].loss)]
    assert paths == ["fc.layer", "logits", "logits"]
    inspect(compiled(ka(teachers=OVERLAP)))


def test_or_one() -> None:
    compiled_plan = compiled(ka("scores = one", teachers=OVERLAP))
    [columns] = calls(compiled_plan.plan.phases["ka@joint"].loss, "columns")
    assert columns.keywords["at"] == ir.Const([2, 3, 4, 5])
    assert compiled_plan.plan.networks["ka.fitted"].architecture.arguments["base"][1]["classes"] == 10
    inspect(compiled_plan)


def test_one_class_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\n\ndef birds():\n    x = np.zeros((40, 1, 8, 8), np.uint8)\n    y = np.arange(40) % 4\n"
        "    return {'train': (x, y), 'test': (x, y), 'classes': ['Blue Jay', 'crow', 'blue_jay', 'wren']}\n"
    )
    text = ka(teachers=TEACHERS.replace("random(parts = 2, seed = 0)", "[0..1, 2..3]"))
    text = text.replace("data digits = digits", 'use "own.py" as my\ndata digits = source("own.py:birds")')
    text = text.replace("half of digits = [0..1, 2..3]", "half of digits { a = 0..1  b = 2..3 }")
    [diagnostic] = check_text(text, folder=tmp_path)
    assert diagnostic.code == "KD0294" and diagnostic.span is not None and diagnostic.span.text == "from t[*]"
    assert "`Blue Jay`" in diagnostic.message and "`blue_jay`" in diagnostic.message


# ---- recipes


def test_each_part_has_its_own_recipe() -> None:
    head = "recipe slow { optimizer = adam(lr = 0.01)  epochs = 3  batch = 32 }\n"
    text = ka(
        "codes { epochs = 5 }  layerwise with slow  joint with quick { epochs = 7  measure on digits.test { error } }"
    )
    plan = compiled(
        text.replace("on digits with quick { codes", "on digits { codes").replace("amalgamate", head + "amalgamate")
    ).plan
    recipes = {
        n: (p.recipes[0].optimizer.name, p.recipes[0].epochs) for n, p in plan.phases.items() if n.startswith("ka")
    }
    assert recipes["ka@code_stem_conv"] == ("adam", 5) and recipes["ka@scores"] == ("adam", 3)
    assert recipes["ka@joint"] == ("sgd", 7) and plan.phases["ka@joint"].validations
    assert all(v.unlabelled for n, p in plan.phases.items() if n.startswith("ka") for v in p.streams)


@pytest.mark.parametrize("part", ["codes", "layerwise"])
def test_no_phase_without_a_recipe(part: str) -> None:
    text = ka("joint with quick").replace("on digits with quick { joint", "on digits { joint")
    assert codes(text if part == "codes" else text.replace("{ joint", "{ codes with quick  joint")) == ["KD0277"]
