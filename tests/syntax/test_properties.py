"""What holds for every tree and every layout."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.format import format_text
from kdplan.syntax.lexer import comments, tokens
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import same, walk
from kdplan.syntax.write import write
from tests.syntax.trees import expressions, items, laid_out

few = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def read(text: str) -> ast.File:
    return parse(Source("plan.kd", text))


def comments_of(text: str) -> list[str]:
    texts, end = [], 0
    for token in tokens(text):
        texts += [c.text for c in comments(text, end, token.start)]
        end = token.end
    return texts


@few
@given(expressions)
def test_a_written_expression_is_read_as_the_same_tree(node: ast.Expr) -> None:
    setting = read(f"a = {write(node)}").items[0]
    assert isinstance(setting, ast.Setting)
    assert same(setting.value, node)


@few
@given(items)
def test_written_items_are_read_as_the_same_tree(nodes: list[ast.Item]) -> None:
    text = write(ast.File(Source("", ""), nodes))
    assert same(read(text).items, nodes)
    assert write(read(text)) == text


@few
@given(items, st.data())
def test_formatting_keeps_tree_and_comments_and_is_idempotent(nodes: list[ast.Item], data: st.DataObject) -> None:
    text = data.draw(laid_out(write(ast.File(Source("", ""), nodes))))
    once = format_text(Source("plan.kd", text))
    assert same(read(once).items, nodes)
    assert comments_of(once) == comments_of(text)
    assert format_text(Source("plan.kd", once)) == once
    assert all(line == line.rstrip() and "\t" not in line.split('"')[0] for line in once.split("\n"))
    assert "\n\n\n" not in once


@few
@given(items, st.data())
def test_every_span_begins_and_ends_with_a_word_and_holds_its_parts(nodes: list[ast.Item], data: st.DataObject) -> None:
    text = data.draw(laid_out(write(ast.File(Source("", ""), nodes))))
    words = list(tokens(text))
    starts, ends = {w.start for w in words}, {w.end for w in words}
    for node in walk(read(text)):
        if not isinstance(node, ast.Node):
            continue
        assert node.span.start in starts and node.span.end in ends
        for inner in walk(node):
            assert isinstance(inner, ast.Node)
            assert node.span.start <= inner.span.start and inner.span.end <= node.span.end


@few
@given(expressions)
def test_the_span_of_an_expression_reads_as_that_expression(node: ast.Expr) -> None:
    setting = read(f"a = {write(node)}").items[0]
    assert isinstance(setting, ast.Setting)
    for inner in walk(setting.value):
        if isinstance(inner, ast.Binary | ast.Call | ast.Name | ast.Attr | ast.Number | ast.List | ast.Negate):
            again = read(f"a = {inner.span.text}").items[0]
            assert isinstance(again, ast.Setting)
            assert same(again.value, inner)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ab1 .,:;={}()[]\"'\n#-+*@~<>!ofä\t", max_size=60))
def test_any_text_is_parsed_or_gives_mistakes_that_have_a_span(text: str) -> None:
    from kdplan.diagnostics.render import render_text, to_json
    from kdplan.diagnostics.report import PlanError

    try:
        read(text)
    except PlanError as error:
        assert error.diagnostics
        assert all(d.span is not None and 0 <= d.span.start <= d.span.end <= len(text) for d in error.diagnostics)
        assert render_text(error.diagnostics, color=False)
        assert to_json(error.diagnostics)
