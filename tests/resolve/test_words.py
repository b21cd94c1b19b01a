"""Parameters that take one of a few words: how they may be written, and what they mean to keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir import expr as ir
from kdplan.passes.expand import expand
from tests.passes.plans import BIG, HEAD, codes, compiled, keys


def plan(loss: str, before: str = "") -> str:
    return f"{HEAD}{BIG}{before}\nphase p of small on digits with quick {{ loss = {loss} }}"


PAPER = plan("attention(small.layer1, big.layer1, convention = paper)")


@pytest.mark.parametrize(
    ("loss", "before"),
    [
        ("attention(small.layer1, big.layer1, paper)", ""),
        ('attention(small.layer1, big.layer1, convention = "paper")', ""),
        ("attention(small.layer1, big.layer1, convention = paper)", "def paper = 3"),
        ("attention(small.layer1, big.layer1, convention = kind)", "def kind = paper"),
        ("attention(small.layer1, big.layer1, convention = kind)", 'param kind = "paper"'),
        ("at(paper)", 'def at(kind) = attention(small.layer1, big.layer1, convention = kind)\ndef paper = "paper"'),
        ("sum(attention(a, b, convention = paper) for a in [small.layer1] for b in [big.layer1])", ""),
    ],
)
def test_a_word_may_be_written_in_several_ways(loss: str, before: str) -> None:
    assert keys(plan(loss, before))["p"] == keys(PAPER)["p"]


def test_conventions_are_content_and_the_default_written_out_is_none() -> None:
    bare = keys(plan("kl(small.logits, big.logits)"))["p"]
    assert keys(plan("kl(small.logits, big.logits, convention = sum)"))["p"] == bare
    assert keys(plan("kl(small.logits, big.logits, convention = mean)"))["p"] != bare


def test_an_axis_of_words() -> None:
    compiled_plan = compiled(plan("nst(small.layer1, fit(big.layer1, like = small.layer1), convention = c)",
                          'param c in ["mmd", "gram"]'))  # fmt: skip
    losses = [p.loss for name, p in compiled_plan.plan.phases.items() if name.startswith("p[")]
    assert [e.keywords for e in losses if isinstance(e, ir.Call)] == [{}, {"convention": ir.Const("gram")}]


def test_expanded_plans_have_the_bare_word() -> None:
    assert "convention = paper" in expand(compiled(PAPER).plan)


@pytest.mark.parametrize(
    ("value", "code"),
    [("papre", "KD0245"), ("3", "KD0245"), ('"other"', "KD0245"), ("[paper, code]", "KD0403"), ("big", "KD0245")],
)
def test_what_is_no_such_word_is_told(value: str, code: str) -> None:
    assert codes(plan(f"attention(small.layer1, big.layer1, convention = {value})")) == [code]


def test_words_of_networks(tmp_path: Path) -> None:
    """Bare, as text, and by position."""
    for text in ("block = bottleneck", 'block = "bottleneck"', "11, bottleneck"):
        depth = "" if "11" in text else "depth = 11, "
        assert not check_text(f"student small = cifar_resnet({depth}{text})", folder=tmp_path)


def test_help_for_maps_that_differ(tmp_path: Path) -> None:
    diagnostics = check_text(plan("nst(small.layer1, big.layer2)"), folder=tmp_path)
    assert [(d.code, d.help) for d in diagnostics] == [("KD0502", "Write `resize(small.layer1, size = 2)`.")]
    mended = plan("nst(resize(small.layer1, size = 2), big.layer2) + cross_entropy(small.logits, labels)")
    assert not check_text(mended, folder=tmp_path)
    diagnostics = check_text(plan("nst(small.layer2, big.layer2, gram)"), folder=tmp_path)
    assert [(d.code, d.help) for d in diagnostics] == [("KD0502", "Write `fit(small.layer2, like = big.layer2)`.")]


def test_one_of_two_arguments() -> None:
    assert codes(plan("top_score_difference(small.logits, labels, u = 0.6)")) == []
    assert codes(plan("top_score_difference(small.logits, labels, k = 3, eta = 0.5)")) == []
    assert codes(plan("top_score_difference(small.logits, labels)")) == ["KD0237"]
    assert codes(plan("top_score_difference(small.logits, labels, 5, 0.6, eta = 0.5)")) == ["KD0275"]


def test_definitions_of_a_body_are_known_in_its_phases() -> None:
    """As if they stood in the phase; one that is not read is not evaluated there."""
    frame = "data digits = digits\nrecipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }\n"
    inside = "phase train on digits with quick { %s loss = soft }"
    defs = "def hard(x) = cross_entropy(x, labels)  def soft = 0.5 * hard(self.logits) "
    outer = frame + "student small = digits_net(width = 2) { " + defs + "def other = nothing_here " + inside % "" + " }"
    inner = frame + "student small = digits_net(width = 2) { " + inside % defs + " }"
    assert [d.code for d in check_text(outer)] == ["KD0205"], "what nothing reads is looked at all the same"
    outer = outer.replace("def other = nothing_here ", "")
    plans = [compile_source(Source("a.kd", text), Path(".")) for text in (outer, inner)]
    assert plans[0].keys["small@train"].key == plans[1].keys["small@train"].key
    assert set(plans[0].plan.phases["small@train"].logged) == {"soft"}
