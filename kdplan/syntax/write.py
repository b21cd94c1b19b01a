"""From a tree to the source of a plan, with no more brackets than are needed."""

from __future__ import annotations

import math
from collections.abc import Iterable

from kdplan.syntax import ast

WIDTH = 120
CHAIN, COMPARE, RANGE, SUM, PRODUCT, NEGATE, POWER, VALUE = range(8)  # the grammar's levels, loosest first
LEVELS = {"+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT, "**": POWER}
APPLIES = ast.Name | ast.Attr | ast.Version | ast.Pick | ast.Call


def write(node: ast.Node | ast.File) -> str:
    """The source of a node; parsed again it is the same tree.

    Parameters
    ----------
    node
        A file, an item of a body, or an expression.

    Examples
    --------
    >>> from kdplan.syntax.parse import Source, parse
    >>> write(parse(Source("", "student   s = (net) {a = ((b+c)) * 2}")))
    'student s = net { a = (b + c) * 2 }\\n'
    """
    if isinstance(node, ast.File):
        return _file(node.items)
    if isinstance(node, ast.Declaration | ast.Setting | ast.Pair):
        return _item(node, 0)
    if isinstance(node, ast.Clause):
        return _clause(node)
    return expression(node)  # type: ignore[arg-type]


def _file(items: list[ast.Item]) -> str:
    blocks = [_item(item, 0) for item in items]
    lines: list[str] = []
    for i, block in enumerate(blocks):
        if i and ("\n" in block or "\n" in blocks[i - 1]):
            lines.append("")
        lines.append(block)
    return "".join(line + "\n" for line in lines)


# ---- items


def _item(item: ast.Item, indent: int) -> str:
    if isinstance(item, ast.Setting):
        return f"{item.name} = {expression(item.value)}"
    if isinstance(item, ast.Pair):
        return f"{expression(item.left, VALUE)} ~ {expression(item.right, VALUE)}"
    head = _head(item)
    if item.listing is not None:
        settings = "  ".join(_item(i, indent) for i in item.items or [])
        return f"{head} {{ {_commas(item.listing)}{', ' * bool(settings)}{settings} }}"
    if item.items is None:
        return head
    inner = [_item(i, indent + 2) for i in item.items]
    one_line = f"{head} {{ {'  '.join(inner)} }}" if inner else f"{head} {{}}"
    if "\n" not in one_line and indent + len(one_line) <= WIDTH:
        return one_line
    pad = " " * indent
    return "\n".join([f"{head} {{", *(f"{pad}  {i}" for i in inner), f"{pad}}}"])


def _head(d: ast.Declaration) -> str:
    name = " ".join(filter(None, (d.name, f'"{_plain(d.text)}"' if d.text is not None else None)))
    if d.params is not None:
        params = (p.name if p.default is None else f"{p.name} = {expression(p.default)}" for p in d.params)
        name += f"({', '.join(params)})"
    if d.slots:
        name += f"[{', '.join(f'{s.name} in {expression(s.values)}' for s in d.slots)}]"
    return " ".join([d.kind, *([name] if name else []), *(_clause(c) for c in d.clauses)])


def _clause(clause: ast.Clause) -> str:
    return f"{clause.word} {_commas(clause.exprs)}"


def _commas(nodes: Iterable[ast.Expr]) -> str:
    return ", ".join(expression(n) for n in nodes)


def _plain(text: str) -> str:
    assert '"' not in text and "\n" not in text, f"a string cannot hold quotes or line ends: {text!r}"
    return text


# ---- expressions


def expression(node: ast.Expr, level: int = CHAIN) -> str:
    """The source of an expression, in brackets where it binds less tightly than `level`."""
    own, text = _expression(node)
    return f"({text})" if own < level else text


def _expression(node: ast.Expr) -> tuple[int, str]:
    match node:
        case ast.Name():
            return VALUE, node.name
        case ast.Number():
            return _number(node.value)
        case ast.String():
            return VALUE, f'"{_plain(node.value)}"'
        case ast.Attr():
            return VALUE, f"{_base(node.base)}.{node.word}"
        case ast.Version():
            return VALUE, f"{_base(node.base)}@{node.phase}"
        case ast.Pick():
            return VALUE, f"{_base(node.base)}[{_commas(node.picks)}]"
        case ast.Call():
            assert not isinstance(node.function, ast.Call), "a call cannot be called"
            arguments = [expression(a) for a in node.args]
            arguments += [f"{k.name} = {expression(k.value)}" for k in node.keywords]
            return VALUE, f"{_base(node.function)}({', '.join(arguments)})"
        case ast.List():
            return VALUE, f"[{_commas(node.items)}]"
        case ast.All():
            return VALUE, "*"
        case ast.Coordinate():
            return VALUE, f"{node.name} = {expression(node.value)}"
        case ast.Comprehension():
            loops = (f"for {f.name} in {expression(f.values)}" for f in node.loops)
            return VALUE, " ".join([expression(node.element), *loops])
        case ast.Chain():
            return CHAIN, " -> ".join(expression(p, COMPARE) for p in node.parts)
        case ast.Range():
            return RANGE, f"{expression(node.low, SUM)}..{expression(node.high, SUM)}"
        case ast.Negate():
            return NEGATE, f"-{expression(node.operand, NEGATE)}"
        case ast.Binary():
            return _binary(node)


def _binary(node: ast.Binary) -> tuple[int, str]:
    own = LEVELS.get(node.op, COMPARE)
    if own == POWER:
        return own, f"{expression(node.left, VALUE)} ** {expression(node.right, NEGATE)}"
    if own == COMPARE:
        return own, f"{expression(node.left, RANGE)} {node.op} {expression(node.right, RANGE)}"
    # down the left side in a loop: a sum may have thousands of terms
    tail: list[str] = []
    left: ast.Expr = node
    while isinstance(left, ast.Binary) and LEVELS.get(left.op, COMPARE) == own:
        tail.append(f"{left.op} {expression(left.right, own + 1)}")
        left = left.left
    return own, " ".join([expression(left, own), *reversed(tail)])


def _base(node: ast.Expr) -> str:
    assert isinstance(node, APPLIES), f"{type(node).__name__} takes no `.`, `@`, `[ ]` or `( )`"
    return expression(node)


def _number(value: int | float) -> tuple[int, str]:
    assert math.isfinite(value), f"{value} cannot be written"
    return (VALUE, repr(value)) if value >= 0 and not repr(value).startswith("-") else (NEGATE, repr(value))
