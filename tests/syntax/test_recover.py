"""Several mistakes in one run, each at its span; declarations that parse are kept."""

from __future__ import annotations

import pytest

from kdplan.diagnostics.report import PlanError, Reporter, table
from kdplan.diagnostics.span import Source
from kdplan.syntax import diagnose
from kdplan.syntax.build import NAMES_FIRST
from kdplan.syntax.parse import parse, parse_recovering


def mistakes(text: str) -> list[tuple[str, str, int]]:
    reporter = Reporter()
    parse_recovering(Source("plan.kd", text), reporter)
    return [(d.code, d.span.text, d.span.line) for d in reporter.diagnostics if d.span]


def test_one_mistake_in_each_of_several_declarations() -> None:
    text = """\
student a: resnet20
student b = resnet20
phase kd of b on cifar with sgd {
  loss = cross_entropy(b.logits labels)
}
recipe r {
  epochs 240
  optimizer = sgd(lr = .1)
  batch = 64
}
"""
    assert mistakes(text) == [
        ("KD0101", ":", 1),
        ("KD0105", "labels", 4),
        ("KD0102", "epochs", 7),
        ("KD0108", ".1", 8),
    ]
    file = parse_recovering(Source("plan.kd", text), Reporter())
    assert [d.name for d in file.declarations] == ["b"]


def test_mistakes_in_inner_declarations_and_in_the_head() -> None:
    text = """\
teacher big = resnet56 of {
  phase train on cifar with sgd {
    loss = f(x) +
  }
  phase more on cifar with sgd { loss = 5. }
  good = 1
}
"""
    assert mistakes(text) == [("KD0118", "of", 1), ("KD0118", "+", 3), ("KD0108", "5.", 5)]


def test_an_open_bracket_is_blamed_and_not_what_follows_it() -> None:
    text = """\
phase one of a on d with r {
  loss = f(x

phase two of a on d with r { loss = f(x) }
phase three of a on d with r { loss = f(x, }
student s = = t
"""
    assert mistakes(text) == [("KD0104", "{", 1), ("KD0104", "(", 2), ("KD0104", "(", 5), ("KD0118", "=", 6)]


def test_brackets_inside_texts_and_comments_do_not_count() -> None:
    assert mistakes('use "a{.kd" # (\nstudent a = = b\n') == [("KD0118", "=", 2)]
    assert mistakes("use 'a{.kd'\nstudent a = = b\n") == [("KD0107", "'a{.kd'", 1), ("KD0118", "=", 2)]


def test_the_end_of_the_line_before_is_blamed() -> None:
    assert mistakes("recipe r {\n  a = 1 +\n  b = 2\n}") == [("KD0118", "+", 2)]
    assert mistakes("a = f(x\n  y)") == [("KD0105", "x", 1)]


def test_no_more_than_twenty() -> None:
    reporter = Reporter()
    parse_recovering(Source("plan.kd", "student a: b\n" * 100), reporter)
    assert len(reporter.diagnostics) == 20
    assert "first 20" in reporter.diagnostics[-1].notes[0].text


def test_all_mistakes_are_raised_in_the_order_of_the_text() -> None:
    with pytest.raises(PlanError) as caught:
        parse(Source("plan.kd", "recipe r { a = .5 }\nstudent x: y\n"))
    assert [d.code for d in caught.value.diagnostics] == ["KD0108", "KD0101"]
    assert "plan.kd:1:16: KD0108" in str(caught.value)


@pytest.mark.parametrize("rule", diagnose.RULES, ids=lambda r: r.__name__)
def test_without_a_rule_some_row_of_the_table_fails(rule: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "RULES", tuple(r for r in diagnose.RULES if r is not rule))
    failed = 0
    for code, row in table().items():
        for bad in row.get("bad", []):
            if bad.get("stage") == "parse":
                failed += (code, bad["at"]) not in [m[:2] for m in mistakes(bad["plan"])]
    assert failed


@pytest.mark.parametrize(
    ("body", "code", "names_first"),
    [
        ("{ a, b = 1, c }", "KD0103", True),
        ("{ a, b = 1, c = 2 }", "KD0103", False),
        ("{ b = 1, a }", "KD0103", True),
        ("{\n  b = 1,\n  a\n}", "KD0103", True),
        ("{ a, b = 1 c }", "KD0119", True),
        ("{ b = 1 a }", "KD0119", True),
    ],
)
@pytest.mark.parametrize("head", ['use "x.kd"', "recipe r"])
def test_names_behind_settings(head: str, body: str, code: str, names_first: bool) -> None:
    """The comma or the name that is wrong is blamed, not one that may stand there."""
    reporter = Reporter()
    parse_recovering(Source("plan.kd", f"{head} {body}"), reporter)
    (found,) = reporter.diagnostics
    assert found.span is not None and found.code == code
    assert found.span.start == f"{head} {body}".index("1") + (2 if code == "KD0119" else 1)
    assert (found.help == NAMES_FIRST) == names_first


@pytest.mark.parametrize("text", ["0.1s", "20k", "0.1_0x", "3px"])
def test_numbers_with_units(text: str) -> None:
    """The whole word is no number; no part of it is suggested as the value."""
    reporter = Reporter()
    parse_recovering(Source("plan.kd", f"recipe r {{ warmup = {text} }}"), reporter)
    (found,) = reporter.diagnostics
    assert found.code == "KD0123" and found.span is not None and found.span.text == text
    assert found.help is not None and "without a unit" in found.help


def test_numbers_with_underscores() -> None:
    """The number is written without them."""
    reporter = Reporter()
    parse_recovering(Source("plan.kd", "recipe r { batch = 1_000 }"), reporter)
    assert reporter.diagnostics[0].help == "Write `1000`."


@pytest.mark.parametrize(
    ("text", "head"),
    [
        ("recipe r\n  epochs = 2\n}\nphase p of a on d with r { loss = x }", "recipe r"),
        ("teacher t = net\n  phase q on d with r { loss = x }\n}", "teacher t = net"),
        ("teacher t = net {\n  phase q on d with r\n    loss = x\n  }\n}\nstudent s = net", "phase q on d with r"),
        ("phase p of a\n    on d with r\n  loss = x\n}", "phase p of a\n    on d with r"),
    ],
)
def test_a_body_without_its_opening_brace(text: str, head: str) -> None:
    """The head of the declaration is blamed, not the brace that closes it."""
    assert [(code, at) for code, at, _ in mistakes(text)] == [("KD0127", head)]


def test_a_brace_too_many() -> None:
    """Where every body has its opening brace, the closing one is blamed."""
    assert mistakes("recipe r {\n  epochs = 2\n}\n}") == [("KD0115", "}", 4)]
