"""Rules 1 to 6 of the language's meaning: versions, what moves, equal content, axes, files, name spaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.ir import expr as ir
from kdplan.ir.seed import fold
from tests.passes.plans import BIG, CE, HEAD, KD, calls, codes, compiled, keys, phase, taps

# ---- 1. Weights are values; phases make versions


def test_rule_1_a_bare_name_is_the_network_as_its_declaration_leaves_it() -> None:
    tap = taps(phase(KD, "kd").loss)[1]
    assert tap.of == ir.Version("big", "big@train")


def test_rule_1_inside_a_phase_that_moves_it_the_bare_name_is_the_moving_one() -> None:
    found = phase("phase more of big on digits with quick { loss = kl(big.logits, big@init.logits) }", "more")
    assert [t.of for t in taps(found.loss)] == [ir.InTraining(0), ir.Version("big", None)]
    assert found.trainees[0].base == ir.Version("big", "big@train")


def test_rule_1_reading_fresh_weights_is_an_error() -> None:
    assert codes(HEAD + BIG + "measure m of small on digits.test { top1 }") == ["KD0301"]
    assert codes(HEAD + BIG + "phase x of big on digits with quick { loss = kl(big.logits, small.logits) }") == [
        "KD0301"
    ]


def test_rule_1_two_phases_of_one_network_are_two_children() -> None:
    plan = compiled(HEAD + BIG + f"phase a of small on digits with quick {{ {CE} }}"
                    "phase b of small on digits with quick { loss = mean(small.logits) }"
                    "phase c of small@b on digits with quick { loss = mean(small.logits) }")  # fmt: skip
    assert list(plan.dag.edges) == [("b", "c")]
    assert plan.plan.phases["a"].trainees[0].base == plan.plan.phases["b"].trainees[0].base == ir.Version("small", None)


def test_rule_1_phases_in_a_body_start_side_by_side_and_self_names_versions() -> None:
    plan = compiled(HEAD + """
        student s = digits_net(width = 2) {
          phase one on digits with quick { loss = mean(self.logits) }
          phase two of self@one on digits with quick { loss = mean(self.logits) }
        }
        measure m of s, s@one on digits.test { top1 }
    """)  # fmt: skip
    assert list(plan.dag.edges) == [("s@one", "s@two")]
    assert [str(r.target.versions[0]) for r in plan.plan.measures["m"].rows] == ["s@s@two", "s@s@one"]


# ---- 2. `of` says what moves


def test_rule_2_of_takes_versions_paths_and_upto() -> None:
    text = """
        phase a of small on digits with quick { loss = mean(small.logits) }
        phase b of small@a.fc, small@a.layer2 on digits with quick { loss = mean(small.logits) }
        phase c of upto(small@a.layer2, from = layer1) on digits with quick { loss = mean(small.layer2) }
    """
    b, c = phase(text, "b").trainees, phase(text, "c").trainees
    assert len(b) == 1 and b[0].paths == ["fc", "layer2"] and b[0].base == ir.Version("small", "a")
    assert (c[0].upto, c[0].since, c[0].paths) == (["layer2"], ["layer1"], [])


def test_rule_2_one_phase_cannot_start_from_two_versions_of_a_network() -> None:
    text = "phase x of small@a.fc, small@init.layer1 on digits with quick { loss = mean(small.logits) }"
    assert codes(HEAD + BIG + f"phase a of small on digits with quick {{ {CE} }}" + text) == ["KD0304"]


def test_rule_2_order_follows_from_the_versions_that_are_read() -> None:
    text = HEAD + BIG + "phase b of small@a on digits with quick { loss = mean(small.logits) }" + \
        "phase a of small on digits with quick { loss = mean(small.fc) }"  # fmt: skip
    assert list(compiled(text).dag.edges) == [("a", "b")]
    circle = HEAD + BIG + "phase a of small@b on digits with quick { loss = mean(small.fc) }" + \
        "phase b of small@a on digits with quick { loss = mean(small.fc) }"  # fmt: skip
    assert set(codes(circle)) == {"KD0303"}


# ---- 3. Equal content is one thing


def test_rule_3_equal_phases_have_equal_keys_in_one_plan_and_across_plans() -> None:
    text = HEAD + BIG + f"student twin = digits_net(width = 4)\nphase a of small on digits with quick {{ {CE} }}"
    both = compiled(text + "phase b of twin on digits with quick { loss = cross_entropy(twin.logits, labels) }")
    assert both.keys["a"].key == both.keys["b"].key
    assert both.planned["b"].same_as == "a"
    other = "data pics = digits\nrecipe fast { batch = 64  epochs = 1  optimizer = sgd(lr = 0.1) }" + \
        "student s = digits_net(width = 4)" + \
        "phase kd of s on pics with fast { loss = cross_entropy(labels = labels, logits = s.logits) }"  # fmt: skip
    assert keys(other)["kd"] == both.keys["a"].key


def test_rule_3_the_seed_is_the_own_one_else_the_enclosing_one_else_the_files_else_zero() -> None:
    body = "{ %s phase p on digits with quick { %s loss = mean(self.logits) } }"

    def seeds(own: str, inner: str, file: str = "") -> tuple[int, int]:
        plan = compiled(f"{HEAD}{file}\nstudent s = digits_net(width = 2) {body % (own, inner)}").plan
        return plan.networks["s"].seed, plan.phases["s@p"].seed

    assert seeds("", "") == (0, 0)
    assert seeds("", "", "param seed = 4") == (4, 4)
    assert seeds("seed = 7", "", "param seed = 4") == (7, 7)
    assert seeds("seed = 7", "seed = fold(seed, 1)", "param seed = 4") == (7, fold(7, 1))
    assert seeds("seed = fold(seed, 2)", "", "param seed = 4") == (fold(4, 2), fold(4, 2))


def test_rule_3_twins_that_would_stay_equal_are_found() -> None:
    text = HEAD + """
        student a = digits_net(width = 2)
        student b = digits_net(width = 2) { %s }
        phase dml of a, b on digits with quick {
          loss = cross_entropy(a.logits, labels) + kl(a.logits, detach(b.logits))
               + cross_entropy(b.logits, labels) + kl(b.logits, detach(a.logits))
        }
    """  # fmt: skip
    assert codes(text % "") == ["KD0305"]
    assert codes(text % "seed = fold(seed, 1)") == []


# ---- 4. `in` makes an axis, `=` a value

SWEEP = (
    HEAD
    + """
param weight in [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
param seed in 0..4
"""
)
STUDENTS = """
student small = digits_net(width = 4)
phase kd of small on digits with quick { loss = weight * kd(small.logits, big.logits) }
"""


def test_rule_4_five_seeds_and_six_weights_with_one_teacher_are_31_phases() -> None:
    one = (
        "teacher big = digits_net(width = 8) { seed = 0 phase train on digits with quick { loss = mean(self.logits) } }"
    )
    assert len(compiled(SWEEP + one + STUDENTS).plan.phases) == 31


def test_rule_4_a_teacher_a_seed_makes_35() -> None:
    each = "teacher big = digits_net(width = 8) { phase train on digits with quick { loss = mean(self.logits) } }"
    plan = compiled(SWEEP + each + STUDENTS)
    assert len(plan.plan.phases) == 35
    assert len({k.key for k in plan.keys.values()}) == 35


def test_rule_4_an_axis_belongs_to_what_reads_it_through_others_too() -> None:
    plan = compiled(HEAD + BIG + """
        param w in [1, 2]
        def soft(x) = w * mean(x)
        recipe own = quick { epochs = w }
        phase a of small on digits with quick { loss = soft(small.logits) }
        phase b of small on digits with own { loss = mean(small.logits) }
        phase c of small on digits with quick { loss = kl(small.logits, small@a.logits) * w }
        phase d of small on digits with quick { loss = mean(small.logits) }
    """)  # fmt: skip
    assert [n for n in plan.plan.phases if n != "big@train"] == [
        "a[w=1]",
        "a[w=2]",
        "b[w=1]",
        "b[w=2]",
        "c[w=1]",
        "c[w=2]",
        "d",
    ]
    assert ("a[w=2]", "c[w=2]") in plan.dag.edges and ("a[w=1]", "c[w=2]") not in plan.dag.edges


def test_rule_4_names_show_coordinates_and_keys_hold_values_only() -> None:
    first = keys(
        HEAD + BIG + "param w in [1, 2]\nphase a of small on digits with quick { loss = w * mean(small.logits) }"
    )
    second = keys(
        HEAD + BIG + "param v in [2, 3]\nphase b of small on digits with quick { loss = v * mean(small.logits) }"
    )
    assert first["a[w=2]"] == second["b[v=2]"]


FAMILY = (
    HEAD
    + """
verticals half of digits = random(parts = 2)
teacher t[v in half, i in 0..2] = digits_net(classes = v) {
  seed = i
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 4)
"""
)


@pytest.mark.parametrize(
    ("picked", "count"),
    [
        ("t[*]", 6),
        ("t[*, *]", 6),
        ("t[half[0], 1]", 1),
        ("t[part0, 1]", 1),
        ("t[v = part1, i = *]", 3),
        ("t[*, 0..1]", 4),
        ("t[0, *]", 3),
    ],
)
def test_rule_4_members_of_a_family(picked: str, count: int) -> None:
    plan = compiled(f"{FAMILY} measure m of {picked} on digits.test {{ parameters }}")
    assert len(plan.plan.phases) == 6
    assert len(plan.plan.measures["m"].rows) == count


def test_rule_4_a_family_needs_an_index_and_one_that_exists() -> None:
    assert codes(FAMILY + "measure m of t on digits.test { top1 }") == ["KD0401"]
    assert codes(FAMILY + "measure m of t[0, 7] on digits.test { top1 }") == ["KD0402"]
    assert codes(FAMILY + "export e = t[*]") == ["KD0404"]
    same = "teacher t[i in 0..1] = digits_net(width = 2) { phase p on digits with quick { loss = mean(self.logits) } }"
    assert codes(HEAD + same) == ["KD0306"]


def test_rule_4_what_stands_right_of_a_selection_applies_to_each() -> None:
    plan = compiled(FAMILY + "phase kd of small on digits with quick { loss = sum(mean(x) for x in t[0, *].fc) }")
    found = [t.of for t in taps(plan.plan.phases["kd"].loss)]
    assert [str(v) for v in found] == [f"t[v=part0, i={i}]@t[v=part0, i={i}]@train" for i in range(3)]


def test_rule_4_families_of_phases_meet_families_of_networks() -> None:
    text = (
        HEAD
        + """
        verticals half of digits = random(parts = 2)
        teacher t[v in half] = digits_net(classes = v)
        phase train[v in half] of t[v] on digits[v] with quick { loss = cross_entropy(t[v].logits, labels) }
        measure m of [t[v]@train[v] for v in half] on digits.test { parameters }
    """
    )
    rows = compiled(text).plan.measures["m"].rows
    assert [str(r.target.versions[0]) for r in rows] == ["t[v=part0]@train[v=part0]", "t[v=part1]@train[v=part1]"]
    assert codes(text + "measure n of t[*]@train[0] on digits.test { parameters }") == ["KD0307"]


def test_rule_4_coordinates_pick_on_param_axes() -> None:
    text = (
        SWEEP
        + "teacher big = digits_net(width = 8) { phase train on digits with quick { loss = mean(self.logits) } }"
        + STUDENTS
    )
    plan = compiled(text + "export e = small@kd[weight = 0.5, seed = 0]\n"
                    "measure m of small@kd[weight = 0.1] on digits.test { top1 }"
                    "measure n of small@kd[weight = *, seed = 1..2] on digits.test { top1 }").plan  # fmt: skip
    assert plan.exports["e"].target.versions[0].phase == "kd[weight=0.5, seed=0]"
    assert len(plan.measures["m"].rows) == 5 and len(plan.measures["n"].rows) == 12
    before = compiled(
        text + "export e = small[seed = 0]@kd[weight = 0.5]  measure n of small[seed = 1..2]@kd on digits.test { top1 }"
    )
    assert before.plan.exports["e"].target == plan.exports["e"].target
    assert len(before.plan.measures["n"].rows) == 12
    assert codes(text + "export e = small@kd[weight = 0.5]") == ["KD0404"]
    assert codes(text + "export e = small@kd[weight = 0.7, seed = 0]") == ["KD0402"]


def test_rule_4_a_phase_reads_another_point_of_an_axis() -> None:
    plan = compiled(SWEEP + """
        student s = digits_net(width = 2)
        phase a of s on digits with quick { loss = mean(s.logits) }
        phase b of s on digits with quick { loss = kl(s.logits, s@a[seed = 0].logits) }
        phase c of s on digits with quick { loss = sum(kl(s.logits, x.logits) for x in s@a[seed = *]) }
    """)  # fmt: skip
    assert list(plan.dag.predecessors("b[seed=3]")) == ["a[seed=0]"]
    assert len(list(plan.dag.predecessors("c[seed=3]"))) == 5


def test_rule_4_values_may_be_choices_and_records() -> None:
    plan = compiled(HEAD + BIG + """
        param how in [case(w = 1, t = 2), case(w = 3, t = 4)]
        param curve in [cosine(), constant]
        recipe own = quick { schedule = curve }
        phase a of small on digits with own { loss = how.w * kd(small.logits, big.logits, temperature = how.t) }
    """).plan  # fmt: skip
    assert len(plan.phases) == 1 + 4
    values = {(c.keywords["temperature"].value, p.recipes[0].schedule.name)  # type: ignore[union-attr]
              for n, p in plan.phases.items() for c in calls(p.loss, "kd")}  # fmt: skip
    assert values == {(2, "cosine"), (2, "constant"), (4, "cosine"), (4, "constant")}


def test_rule_4_values_that_need_themselves_are_an_error() -> None:
    phase_of = "\nphase x of small on digits with quick { loss = a * mean(small.logits) }"
    for text in ("param a = b\nparam b = a", "param a in [b]\nparam b = a", "def a = b\nparam b = a"):
        assert set(codes(HEAD + BIG + text + phase_of)) == {"KD0303"}


# ---- 5. Files are lexical


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "t.kd").write_text(HEAD + "param seed = 3\nparam width = 8\n" + """
        teacher big = digits_net(width = width) {
          phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
        }
        teacher idle = digits_net(width = 5) { phase train on digits with quick { loss = mean(self.logits) } }
    """)  # fmt: skip
    return tmp_path


STUDENT = "student small = digits_net(width = 4)\n"


def test_rule_5_a_used_file_keeps_its_params_and_its_phases_run_when_read(base: Path) -> None:
    plan = compiled('use "t.kd"\n' + STUDENT + KD, base).plan
    assert sorted(plan.phases) == ["big@train", "kd"]
    assert plan.networks["big"].seed == 3 and plan.networks["small"].seed == 3


def test_rule_5_as_makes_a_name_space(base: Path) -> None:
    text = 'use "t.kd" as t\n' + STUDENT
    kd = "phase kd of small on t.digits with t.quick { loss = kd(small.logits, t.big.logits) }"
    plan = compiled(text + kd, base).plan
    assert plan.networks["big"].seed == 3 and plan.networks["small"].seed == 0
    assert set(codes(text + KD, base)) == {"KD0205"}


def test_rule_5_use_sets_params_of_the_used_file(base: Path) -> None:
    head = 'use "t.kd" as t { seed = seed  width = 6 }\nparam seed in 0..1\n' + STUDENT
    plan = compiled(head + "phase kd of small on t.digits with t.quick { loss = kd(small.logits, t.big.logits) }", base)
    assert len(plan.plan.phases) == 4
    teachers = [n for n in plan.plan.networks.values() if n.architecture.arguments["width"] == 6]
    assert sorted(n.seed for n in teachers) == [0, 1]
    assert codes('use "t.kd" as t { sed = 1 }', base) == ["KD0210"]


def test_rule_5_one_file_twice_with_other_params_is_two_things(base: Path) -> None:
    text = 'use "t.kd" as t\nuse "t.kd" as u { width = 9 }\n' + STUDENT
    plan = compiled(text + "phase kd of small on t.digits with t.quick { "
                    "loss = kd(small.logits, t.big.logits) + kd(small.logits, u.big.logits) }",
                    base).plan  # fmt: skip
    assert len(plan.phases) == 3


def test_rule_5_set_reaches_only_the_given_file(base: Path) -> None:
    text = 'use "t.kd" as t\nparam width = 2\nstudent small = digits_net(width = width)\n'
    text += "phase kd of small on t.digits with t.quick { loss = kd(small.logits, t.big.logits) }"
    plan = compiled(text, base, params={"width": "7"}).plan
    assert plan.networks["small"].architecture.arguments["width"] == 7
    assert plan.networks["big"].architecture.arguments["width"] == 8


def test_rule_5_set_may_make_an_axis(base: Path) -> None:
    text = (
        'use "t.kd"\nparam w = 1\n'
        + STUDENT
        + "phase a of small on digits with quick { loss = w * mean(small.logits) }"
    )
    assert list(compiled(text, base, params={"w": "[1, 2]"}).plan.phases) == ["a[w=1]", "a[w=2]"]


# ---- 6. Name spaces


def test_rule_6_a_phase_may_be_called_like_a_function_and_nothing_else_may() -> None:
    assert codes(HEAD + BIG + KD) == []
    assert codes(HEAD + BIG + KD + "student kl = digits_net(width = 2)") == ["KD0206"]
    assert codes(HEAD + BIG + "phase x of small on digits with quick { def kl = mean(small.fc)  loss = kl }") == [
        "KD0206"
    ]
    assert codes(HEAD + BIG + KD + KD.replace("kd(", "kl(")) == ["KD0207"]


def test_rule_6_choices_stand_in_tables_of_their_own() -> None:
    text = HEAD + BIG + "phase x of small on digits with quick { schedule = cosine()  loss = cosine(small.fc, big.fc) }"
    assert compiled(text).plan.phases["x"].recipes[0].schedule.name == "cosine"


def test_rule_6_a_declarations_own_name_is_out_of_scope_right_of_its_equals() -> None:
    plan = compiled("data digits = digits\nstudent digits_net = digits_net(width = 2)").plan
    assert plan.data["digits"].source.name == "digits"
    assert plan.networks["digits_net"].architecture.name == "digits_net"


def test_rule_6_self_is_known_in_a_networks_body_only() -> None:
    assert codes(HEAD + BIG + "phase x of small on digits with quick { loss = mean(self.logits) }") == ["KD0209"]
