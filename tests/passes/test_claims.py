"""Which runs and which versions a claim compares."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.plan import Plan
from kdplan.passes.claims import Contrast, contrasts

PLAN = """
param seed in 0..2
param w in [1, 5]
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
student small = digits_net(width = 2)
teacher big = digits_net(width = 4) { seed = 7
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) seed = 7 }
}
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase kd of small on digits with quick { loss = w * kd(small.logits, big.logits, temperature = 4) }
student one[member in 0..2] = digits_net(width = 2) { seed = fold(seed, member)
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""


def compiled(claim: str) -> Plan:
    return compile_source(Source("a.kd", PLAN + claim + "\n"), Path(".")).plan


def cut(claim: str) -> list[Contrast]:
    plan = compiled(claim)
    (one,) = plan.claims.values()
    return [c for comparison in one.comparisons for c in contrasts(one, comparison)]


def test_runs_of_one_seed_are_paired() -> None:
    """Each difference has the same seed on both sides."""
    (found,) = cut("claim c of small@kd[w = 5] > small@alone on digits.test { top1 }")
    assert [run.at for run in found.runs] == [(("seed", s),) for s in range(3)]
    for run in found.runs:
        assert run.left[0].coordinates["seed"] == run.right[0].coordinates["seed"]


def test_a_version_without_a_seed_meets_every_run() -> None:
    """A teacher of one seed is a constant."""
    (found,) = cut("claim c of small@alone < big on digits.test { top1 }")
    assert len(found.runs) == 3 and len({str(run.right[0].target) for run in found.runs}) == 1


def test_other_axes_and_versions_are_tests_of_their_own() -> None:
    """Each point of an axis that one side has, and equal points where both have it."""
    found = cut("claim c of small@kd > small@alone on digits.test { top1 }")
    assert [f.left for f in found] == ["small@kd[w = 1]", "small@kd[w = 5]"]
    both = cut("claim c of small@kd > small@kd[w = 1] on digits.test { top1 }")
    assert [(f.left, f.right) for f in both] == [("small@kd[w = 5]", "small@kd[w = 1]")]  # and none with itself
    several = cut("claim c of [small@alone, small@kd[w = 1]] < big on digits.test { top1 }")
    assert several[0].left == "small@alone" and len(several) == 2


def test_members_may_be_compared_with_each_other() -> None:
    """A side of one value is compared with all of the other side."""
    (found,) = cut("claim c of one[0] > one[1] on digits.test { top1 }")
    assert (found.left, found.right) == ("one[member = 0]", "one[member = 1]") and len(found.runs) == 3
    swept = cut("claim c of small@kd > one[*] on digits.test { top1 }")
    assert len(swept) == 6
    alike = cut("claim c of one[*] == one[*]@init on digits.test { top1, margin = 90 }")
    assert [f.left for f in alike] == [f"one[member = {m}]" for m in range(3)]


def test_over_averages_within_a_run() -> None:
    """Both sides may have other values of the axis, or none."""
    (found,) = cut("claim c of one[*] > small@alone on digits.test over member { top1 }")
    assert [len(run.left) for run in found.runs] == [3, 3, 3] and [len(run.right) for run in found.runs] == [1, 1, 1]


def test_by_pairs_another_axis() -> None:
    """Runs are then numbered by both."""
    (found,) = cut("claim c of small@kd > small@alone on digits.test by w { top1 }")
    assert len(found.runs) == 6


def test_a_trend_is_ordered_by_its_values() -> None:
    """One row for each value, the smallest first."""
    (found,) = cut("claim c of small@kd on digits.test over w { top1, trend = falling }")
    assert [[row.coordinates["w"] for row in run.left] for run in found.runs] == [[1, 5]] * 3


def test_numbers_and_params_are_bounds() -> None:
    """`A > 90`, with a number, an expression or a param."""
    for bound in ("90", "-5", "100 - 10", "limit"):
        plan = compiled(f"param limit = 90\nclaim c of big > {bound} on digits.test {{ parameters }}")
        assert plan.claims["c"].comparisons[0].bound in (90.0, -5.0)


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ("claim c of small@kd > small@alone[seed = 0] on digits.test { top1 }", "KD0864"),
        ("claim c of small@alone[seed = 1] > small@alone on digits.test { top1 }", "KD0864"),
        ("claim c of one[0..1] > one[1..2] on digits.test { top1 }", "KD0866"),
        ("claim c of small@alone > small@alone on digits.test { top1 }", "KD0860"),
        ("claim c of small@alone on digits.test { top1 }", "KD0860"),
        ("claim c of small@alone > big on digits.test { }", "KD0257"),
        ("claim c of small@alone > big on digits.test { margin = 1 }", "KD0257"),
        ("claim c of small@alone > big on digits.test { top1, margin = -1 }", "KD0243"),
        ("claim c of small@alone > big on digits.test { top1, trend = up }", "KD0245"),
        ("claim c of small@alone > nothing on digits.test { top1 }", "KD0205"),
        ("claim c of small@alone > quick on digits.test { top1 }", "KD0250"),
        ("claim c of small@alone > big on digits.test over wide { top1 }", "KD0409"),
        ("claim c of small@alone > big on digits.test over w by w { top1 }", "KD0412"),
        ("claim c of small@kd on digits.test over w, seed { top1, trend = rising }", "KD0863"),
    ],
)
def test_mistakes(claim: str, code: str) -> None:
    """Each has a message of its own, and only that."""
    with pytest.raises(PlanError) as raised:
        compiled(claim)
    assert [d.code for d in raised.value.diagnostics] == [code]


def test_claims_change_no_key() -> None:
    """They read numbers, and train nothing."""
    with_claim = compile_source(
        Source("a.kd", PLAN + "claim c of small@alone < big on digits.test { top1 }"), Path(".")
    )
    without = compile_source(Source("a.kd", PLAN), Path("."))
    assert {n: k.key for n, k in with_claim.keys.items()} == {n: k.key for n, k in without.keys.items()}


def test_claims_survive_formatting_and_expanding() -> None:
    """`fmt` keeps them; `expand` has no axes, and writes what they read as measures."""
    from kdplan.passes.expand import expand
    from kdplan.syntax.format import format_text

    text = PLAN + "claim c of small@kd>small@alone on digits.test over w{top1,margin=1}\n"
    assert "claim c of small@kd > small@alone on digits.test over w { top1, margin = 1 }" in format_text(
        Source("a", text)
    )
    expanded = expand(compile_source(Source("a.kd", text), Path(".")).plan)
    assert "measure c of" in expanded and "claim" not in expanded
