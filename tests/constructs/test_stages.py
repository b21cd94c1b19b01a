"""`stages` against the phases that somebody would write by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdplan.compile import check_text, inspect
from kdplan.passes.expand import expand
from tests.passes.plans import BIG, HEAD, codes, compiled, keys

LADDER = """
stages mimic of small from big on digits with quick {
  stage s1 { small.layer1 ~ big.layer1 }
  stage s2 { small.layer2 ~ big.layer2 }
  head { loss = cross_entropy(small.logits, labels) }
}
"""
BY_HAND = """
phase a of upto(small.layer1) on digits with quick {
  loss = squared_l2(fit(small.layer1, like = big.layer1), big.layer1)
}
phase b of upto(small@a.layer2, from = layer1) on digits with quick {
  loss = squared_l2(fit(small.layer2, like = big.layer2), big.layer2)
}
phase c of upto(small@b.output, from = layer2) on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
START = HEAD + BIG


def content(text: str) -> set[str]:
    return set(keys(START + text).values())


def test_it_is_what_one_would_write() -> None:
    assert content(LADDER) == content(BY_HAND)


def test_found_stages_are_the_written_ones() -> None:
    head = "head { loss = cross_entropy(small.logits, labels) }"
    assert content(LADDER) == content(f"stages mimic of small from big on digits with quick {{ stages = auto {head} }}")
    assert content(LADDER) == content(f"stages mimic of small from big on digits with quick {{ count = 2 {head} }}")


def test_versions_of_a_ladder() -> None:
    plan = compiled(
        START + LADDER + "measure t of small@mimic, small@mimic@s1.layer1, small@mimic@head on digits.test { top1 }"
    ).plan
    rows = plan.measures["t"].rows
    assert [str(r.target.versions[0]) for r in rows] == ["small@mimic@head", "small@mimic@s1", "small@mimic@head"]
    assert [r.label for r in rows] == ["small@mimic", "small@mimic@s1.layer1", "small@mimic@head"]
    assert [p.construct for p in plan.phases.values()] == [None, "mimic", "mimic", "mimic"]


def test_it_goes_on_from_another_version() -> None:
    pre = "phase pre of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
    plan = compiled(START + pre + LADDER.replace("of small from", "of small@pre from")).plan
    trainees = [p.trainees[0] for p in plan.phases.values() if p.construct]
    assert [str(m.base) for m in trainees] == ["small@pre", "small@mimic@s1", "small@mimic@s2"]
    assert [(m.upto, m.since) for m in trainees] == [
        (["layer1"], []),
        (["layer2"], ["layer1"]),
        (["logits"], ["layer2"]),
    ]


def test_networks_of_another_file(tmp_path: Path) -> None:
    (tmp_path / "common.kd").write_text(START)
    declaration = "stages mimic of {0}small from {0}big on {0}digits with {0}quick {{ stages = auto }}"
    ladders = [
        compiled(START + declaration.format("")),
        compiled('use "common.kd" as c\n' + declaration.format("c."), tmp_path),
        compiled('use "middle.kd" as m\n' + declaration.format("m.c."), _with_middle(tmp_path)),
    ]
    first, *others = [{k.key for n, k in ladder.keys.items() if n.startswith("mimic")} for ladder in ladders]
    assert len(first) == 2 and others == [first, first]


def _with_middle(folder: Path) -> Path:
    (folder / "middle.kd").write_text('use "common.kd" as c\n')
    return folder


def test_phases_go_on_from_a_ladder() -> None:
    more = "phase more of small@mimic on digits with quick { loss = kd(small.logits, big.logits) }"
    assert str(compiled(START + LADDER + more).plan.phases["more"].trainees[0].base) == "small@mimic@head"


def test_settings_stand_at_the_ladder_or_at_a_stage() -> None:
    plan = compiled(
        START
        + """
        recipe slow = quick { epochs = 7 }
        stages mimic of small from big on digits with quick {
          batch = 32
          match = mse
          adapt = none
          seed  = 5
          stage s1 with slow { small.layer1 ~ small@init.layer1  batch = 16 }
          stage s2 { small.layer2 ~ small@init.layer2 }
          head with slow { loss = cross_entropy(small.logits, labels)  measure on digits.test { top1 } }
        }
        """.replace("small@init", "twin")
        + "teacher twin = digits_net(width = 4) { phase train on digits with quick "
        "{ loss = cross_entropy(self.logits, labels) } }"
    ).plan
    s1, s2, head = (plan.phases[f"mimic@{n}"] for n in ("s1", "s2", "head"))
    assert [p.recipes[0].batch for p in (s1, s2, head)] == [16, 32, 32]
    assert [p.recipes[0].epochs for p in (s1, s2, head)] == [7, 1, 7]
    assert [p.seed for p in (s1, s2, head)] == [5, 5, 5]
    assert head.validations and not s1.validations
    assert s1.loss.function == "mse" and s1.loss.args[0].kind == "tap"  # type: ignore[union-attr]


def test_several_pairs_are_a_sum_and_end_the_stage_together() -> None:
    plan = compiled(
        START
        + """
        stages mimic of small from big on digits with quick {
          stage s1 { small.stem ~ big.stem   small.layer1 ~ big.layer1 }
          stage s2 { small.layer2 ~ big.layer2 }
        }
        """
    ).plan
    first, second = plan.phases["mimic@s1"], plan.phases["mimic@s2"]
    assert first.trainees[0].upto == ["stem", "layer1"] and second.trainees[0].since == ["stem", "layer1"]
    assert first.loss.op == "+" and len(first.loss.args) == 2  # type: ignore[union-attr]


def test_your_own_distance() -> None:
    own = "def far(a, b) = 3 * mse(fit(a, like = b), b)\n"
    ladder = LADDER.replace("stage s1", "match = far  adapt = none  stage s1")
    hand = BY_HAND.replace("squared_l2", "3 * mse")
    assert content(own + ladder) == content(hand)


def test_rows_of_a_sweep_share_what_is_equal() -> None:
    compiled_plan = compiled(
        START
        + """
        stages mimic[k in 1..2] of small from big on digits with quick {
          count = k
          head { loss = cross_entropy(small.logits, labels) }
        }
        """
        + LADDER.replace("mimic", "again")
    )
    assert len(compiled_plan.plan.phases) == 1 + 2 + 3 + 3
    assert len({k.key for k in compiled_plan.keys.values()}) == 1 + 2 + 3


def test_axes_reach_into_a_ladder() -> None:
    text = "param w in [1, 2]\n" + START + LADDER.replace("stage s1", "match = far  stage s1")
    plan = compiled(text + "def far(a, b) = w * squared_l2(a, b)").plan
    assert [n for n in plan.phases if "s2" in n] == ["mimic[w=1]@s2", "mimic[w=2]@s2"]
    assert str(plan.phases["mimic[w=2]@head"].trainees[0].base) == "small@mimic[w=2]@s2"


def test_expanded_it_has_the_same_keys() -> None:
    compiled_plan = compiled(START + LADDER)
    again = compiled(expand(compiled_plan.plan))
    assert {k.key for k in compiled_plan.keys.values()} == {k.key for k in again.keys.values()}


def test_what_is_done_stays_and_what_comes_later_does_not_run() -> None:
    compiled_plan = compiled(START + LADDER)
    graphs = inspect(compiled_plan)
    for name, trainable, frozen in (
        ("mimic@s1", {"stem", "layer1"}, set()),
        ("mimic@s2", {"layer2"}, {"stem", "layer1"}),
        ("mimic@head", {"fc"}, {"stem", "layer1", "layer2"}),
    ):
        joined = graphs[name].joined
        prefix = joined.paths["0"]
        parts = {n.removeprefix(f"{prefix}.").partition(".")[0] for n in joined.trainable if n.startswith(prefix)}
        assert parts == trainable
        live = {str(n.target) for n in joined.graph_module.graph.nodes if n.op in ("call_module", "get_attr")}
        used = {t.removeprefix(f"{prefix}.").partition(".")[0] for t in live if t.startswith(f"{prefix}.")}
        assert {p for p in used if p in ("stem", "layer1", "layer2", "fc")} == trainable | frozen


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda t: t.replace("small.layer2 ~ big.layer2", "small.layer2 ~ big.logits"), "KD0511"),
        (lambda t: t.replace("big.layer1", "small@init.layer1"), None),
        (lambda t: t.replace("from big", "").replace("big.", "fresh."), "KD0301"),
        (lambda t: t.replace("stage s2", "stage s1"), "KD0207"),
        (lambda t: t.replace("mimic of small", "mimic of small.layer1"), "KD0268"),
        (lambda t: t.replace("head {", "head { } head {"), "KD0207"),
    ],
)
def test_mistakes(change: Callable[[str], str], code: str | None) -> None:
    text = START + "teacher fresh = digits_net(width = 3)\n" + change(LADDER)
    codes = [d.code for d in check_text(text)]
    assert code is None or code in codes, codes


def test_a_version_that_a_ladder_does_not_have() -> None:
    assert codes(START + LADDER + "measure t of small@mimic@s9 on digits.test { top1 }") == ["KD0302"]
    assert codes(START + LADDER + "measure t of big@mimic on digits.test { top1 }") == ["KD0307"]
