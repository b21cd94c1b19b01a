"""Traversal of trees without recursion, because sums may be thousands of terms long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from typing import Any

from kdplan.syntax import ast


@cache
def parts(kind: type) -> tuple[str, ...]:
    """The fields of a kind of node that are not spans.

    >>> parts(ast.Attr)
    ('base', 'word')
    """
    return tuple(f.name for f in fields(kind) if f.name != "source" and not f.name.endswith("span"))


def walk(node: ast.Node | ast.File) -> Iterator[ast.Node | ast.File]:
    """`node` and all nodes in it, in the order of the source.

    >>> from kdplan.syntax.parse import Source, parse
    >>> [n.name for n in walk(parse(Source("", "a = b + c"))) if isinstance(n, ast.Name)]
    ['b', 'c']
    """
    todo: list[Any] = [node]
    while todo:
        one = todo.pop()
        if type(one) is list:
            todo.extend(reversed(one))
        elif isinstance(one, ast.Node | ast.File):
            yield one
            kind: Any = type(one)
            todo.extend(getattr(one, name) for name in reversed(parts(kind)))


def same(a: object, b: object) -> bool:
    """Whether two trees (or lists of them) are equal, whatever their spans.

    >>> from kdplan.syntax.parse import Source, parse
    >>> same(parse(Source("", "a = 1")), parse(Source("", "a  =  (1)")))
    True
    """
    todo: list[tuple[Any, Any]] = [(a, b)]
    while todo:
        left, right = todo.pop()
        if type(left) is not type(right):
            return False
        if type(left) is list:
            if len(left) != len(right):
                return False
            todo.extend(zip(left, right, strict=True))
        elif isinstance(left, ast.Node | ast.File):
            kind: Any = type(left)
            todo.extend((getattr(left, name), getattr(right, name)) for name in parts(kind))
        elif left != right:
            return False
    return True


def terms(node: ast.Expr, operators: tuple[str, ...] = ("+", "-")) -> list[tuple[str, ast.Expr]]:
    """The operands of a left-deep sum (or product), each with the operator before it; "" before the first.

    >>> from kdplan.syntax.parse import Source, parse
    >>> setting = parse(Source("", "s = a - b + c")).items[0]
    >>> [(op, n.name) for op, n in terms(setting.value)]
    [('', 'a'), ('-', 'b'), ('+', 'c')]
    """
    operands: list[tuple[str, ast.Expr]] = []
    while isinstance(node, ast.Binary) and node.op in operators:
        operands.append((node.op, node.right))
        node = node.left
    return [("", node), *reversed(operands)]
