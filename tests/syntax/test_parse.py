"""The tree of a plan: shapes, binding, spans."""

from __future__ import annotations

import gc
import logging
import time
from pathlib import Path

import lark
import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.grammar import grammar_text
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import terms, walk
from kdplan.syntax.write import write

ROOT = Path(__file__).parents[2]


def read(text: str) -> ast.File:
    return parse(Source("plan.kd", text))


def value(text: str) -> ast.Expr:
    setting = read(f"a = {text}").items[0]
    assert isinstance(setting, ast.Setting)
    return setting.value


def brackets(node: ast.Expr) -> str:
    """An expression with every operation in brackets."""
    match node:
        case ast.Binary():
            return f"({brackets(node.left)}{node.op}{brackets(node.right)})"
        case ast.Negate():
            return f"(-{brackets(node.operand)})"
        case ast.Range():
            return f"({brackets(node.low)}..{brackets(node.high)})"
        case ast.Chain():
            return f"({'->'.join(brackets(p) for p in node.parts)})"
        case _:
            return write(node)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b - c", "((a+b)-c)"),
        ("a + b * c / d", "(a+((b*c)/d))"),
        ("a - (b - c)", "(a-(b-c))"),
        ("-a ** b", "(-(a**b))"),
        ("a ** -b ** c", "(a**(-(b**c)))"),
        ("-a * -b", "((-a)*(-b))"),
        ("0..n - 1", "(0..(n-1))"),
        ("a..b == c", "((a..b)==c)"),
        ("a < b -> c > d -> e", "((a<b)->(c>d)->e)"),
        ("(a -> b) -> c", "((a->b)->c)"),
        ("small@kd.layer1[0](x).y", "small@kd.layer1[0](x).y"),
        ("x.on.of(by = 1, over = 2)", "x.on.of(by = 1, over = 2)"),
    ],
)
def test_binding(text: str, expected: str) -> None:
    assert brackets(value(text)) == expected


def test_a_declaration_with_everything() -> None:
    head = "phase kd[v in V, w in 1..2] of small, big@x on d = e in [1] with r"
    file = read(head + ' { loss = a  u ~ v  use "x" as y { } }')
    (d,) = file.declarations
    assert (d.kind, d.name, d.text, d.params) == ("phase", "kd", None, None)
    assert [(s.name, write(s.values)) for s in d.slots] == [("v", "V"), ("w", "1..2")]
    assert [(c.word, [write(e) for e in c.exprs]) for c in d.clauses] == [
        ("of", ["small", "big@x"]),
        ("on", ["d"]),
        ("=", ["e"]),
        ("in", ["[1]"]),
        ("with", ["r"]),
    ]
    assert d.items is not None and [type(i).__name__ for i in d.items] == ["Setting", "Pair", "Declaration"]
    inner = d.items[2]
    assert isinstance(inner, ast.Declaration) and inner.text == "x" and inner.items == []
    assert d.head_span.text == head and d.span.text == file.source.text
    assert d.kind_span.text == "phase" and d.name_span is not None and d.name_span.text == "kd"


def test_declarations_without_a_name_and_with_a_list() -> None:
    head, patriarch, table = read("head with r { a = 1 } patriarch { } measure t of x { top1, f(y), }").declarations
    assert head.name is None and head.clause("with") is not None
    assert patriarch.name is None and patriarch.items == [] and patriarch.listing is None
    assert table.items is None and table.listing is not None and [write(e) for e in table.listing] == ["top1", "f(y)"]


def test_parameters_of_a_def() -> None:
    (d,) = read("def f(x, y = 2,) = x * y").declarations
    assert d.params is not None
    assert [(p.name, p.default and write(p.default)) for p in d.params] == [("x", None), ("y", "2")]


def test_newlines_mean_nothing() -> None:
    text = "phase p of a on d with r { loss = f(x, y) + 2 def z = 3 }"
    assert write(read(text.replace(" ", "\n"))) == write(read(text))


def test_spans_are_exact() -> None:
    file = read("a = 2 * (small@kd.logits + f(y[*, k = 3], x = 1)) # c")
    texts = {(type(n).__name__, n.span.text) for n in walk(file) if isinstance(n, ast.Node)}
    assert texts >= {
        ("Binary", "2 * (small@kd.logits + f(y[*, k = 3], x = 1))"),
        ("Binary", "(small@kd.logits + f(y[*, k = 3], x = 1))"),
        ("Attr", "small@kd.logits"),
        ("Version", "small@kd"),
        ("Call", "f(y[*, k = 3], x = 1)"),
        ("Pick", "y[*, k = 3]"),
        ("All", "*"),
        ("Coordinate", "k = 3"),
        ("Keyword", "x = 1"),
    }
    attr = next(n for n in walk(file) if isinstance(n, ast.Attr))
    version = next(n for n in walk(file) if isinstance(n, ast.Version))
    assert attr.word_span.text == "logits" and version.phase_span.text == "kd"


def test_numbers() -> None:
    values = [n.value for n in walk(read("a = [0, 12, 0.5, 5e-4, 1E3, 4.0]")) if isinstance(n, ast.Number)]
    assert values == [0, 12, 0.5, 5e-4, 1000.0, 4.0]
    assert [type(v) for v in values] == [int, int, float, float, float, float]


def test_the_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    level = lark.logger.level
    lark.logger.setLevel(logging.DEBUG)
    try:
        with caplog.at_level(logging.DEBUG, logger=lark.logger.name):
            lark.logger.addHandler(caplog.handler)
            lark.Lark(grammar_text(), parser="lalr", lexer="basic", debug=True, maybe_placeholders=False)
    finally:
        lark.logger.removeHandler(caplog.handler)
        lark.logger.setLevel(level)
    assert not [r.getMessage() for r in caplog.records if "onflict" in r.getMessage()]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("plans/**/*.kd"), *ROOT.glob("examples/**/*.kd")]), ids=str)
def test_the_plans_of_the_project_parse(path: Path) -> None:
    assert parse(Source(str(path), path.read_text(encoding="utf-8"))).items


def test_time_grows_linearly_and_a_thousand_phases_take_little() -> None:
    part = (
        "student s{0} = resnet20\nphase p{0} of s{0} on cifar with sgd240 {{ loss = cross_entropy(s{0}.logits, labels) "
        "+ 0.5 * kl(s{0}.logits, big.logits, temperature = 4) }}\n"
    )
    read("a = 1")  # the grammar is compiled once
    times = []
    for n in (250, 1000):
        text = "".join(part.format(i) for i in range(n))
        begin = time.perf_counter()
        assert len(read(text).items) == 2 * n
        times.append(time.perf_counter() - begin)
    assert times[1] < 2.0
    assert times[1] < 12 * times[0]


def test_long_sums_are_read_and_written() -> None:
    text = "a = b" + " + c * d" * 20_000 + "\n"
    file = read(text)
    setting = file.items[0]
    assert isinstance(setting, ast.Setting)
    assert len(terms(setting.value)) == 20_001
    assert write(file) == text


def test_the_collector_is_as_it_was() -> None:
    assert gc.isenabled()
    read("a = 1")
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("s.layer1.0", "s.layer1[0]"),
        ("s.layer1.0.conv1", "s.layer1[0].conv1"),
        ("s.layer1.0.10", "s.layer1[0][10]"),
        ("s(x).layer1.2", "s(x).layer1[2]"),
        ("s@kd.layer1.2", "s@kd.layer1[2]"),
    ],
)
def test_elements_as_torch_writes_them(text: str, same: str) -> None:
    """A number after a dot is an index; the spans are those of the text."""
    node = value(text)
    assert write(node) == same
    assert node.span.text == text
    assert [n.span.text for n in walk(node) if isinstance(n, ast.Number)] == [n for n in text.split(".") if n.isdigit()]


@pytest.mark.parametrize("text", ["s .5", "s. 5", "s.1e3"])
def test_a_number_behind_a_name_is_no_element(text: str) -> None:
    """Where a space stands between, a factor or a digit was forgotten."""
    with pytest.raises(PlanError) as error:
        value(text)
    assert [d.code for d in error.value.diagnostics] == ["KD0108"]
