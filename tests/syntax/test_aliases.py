"""Old names of the language: parsed as the current ones, and replaced by `fmt`."""

from __future__ import annotations

import pytest

from kdplan.compile import check_text
from kdplan.diagnostics.span import Source
from kdplan.syntax.aliases import FUNCTIONS, SETTINGS
from kdplan.syntax.format import format_text
from tests.passes.plans import HEAD, compiled, keys

OLD = """verticals V of digits = random(parts = 2)
student a = digits_net(width = 2, classes = digits.classes) { pace = self_paced(by = V) }
phase p of a on digits with quick { loss = cross_entropy(a.logits, labels) }
network near = displaced(a@p, distance = 2)  # a step away
measure m of near on digits.test { top1 }
"""
NEW = OLD.replace("pace = self", "logit_scale = self").replace("displaced(", "perturbed(")


def test_old_names_mean_the_same() -> None:
    assert keys(HEAD + OLD) == keys(HEAD + NEW)
    assert list(compiled(HEAD + OLD).plan.networks) == list(compiled(HEAD + NEW).plan.networks)


def test_fmt_writes_current_names() -> None:
    new = format_text(Source("a.kd", NEW))
    assert format_text(Source("a.kd", OLD)) == new == format_text(Source("a.kd", new))


def test_a_part_of_verticals_may_have_an_old_name() -> None:
    text = "verticals V of digits { pace = 0..4  rest = 5..9 }\n"
    assert "pace = 0..4" in format_text(Source("a.kd", text))
    use = "teacher t = digits_net(classes = V.pace) { phase p on digits[V.pace] with quick { loss = mean(t.logits) } }"
    assert "KD0230" not in [d.code for d in check_text(HEAD + text + use)]


@pytest.mark.parametrize("name", [*FUNCTIONS, *(w for words in SETTINGS.values() for w in words)])
def test_mistakes_point_at_the_old_word(name: str) -> None:
    text = HEAD + "student a = digits_net(width = 2) { pace = digits }\nnetwork n = displaced(a)\n"
    assert {d.span.text for d in check_text(text) if d.span} & {"digits", "displaced(a)"}
    assert name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_plan_can_declare_an_old_name(name: str) -> None:
    assert [d.code for d in check_text(f"param {name} = 3")] == ["KD0206"]
