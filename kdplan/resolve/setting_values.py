"""Settings to plain values: one rule a type of setting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.plan import Item
from kdplan.ir.spec import SettingSpec
from kdplan.resolve.arguments import check_range, check_required, no_such_choice, unknown_word
from kdplan.resolve.arithmetic import is_number
from kdplan.resolve.context import Context
from kdplan.resolve.signals import signal
from kdplan.resolve.values import (
    Builtin,
    Choice,
    FunctionValue,
    ListValue,
    NetValue,
    Several,
    UserFunction,
    Value,
    describe,
)
from kdplan.syntax import ast


def read(spec: SettingSpec, node: ast.Expr, ctx: Context) -> Any:
    """The value of a setting, checked against its type and range.

    Raises
    ------
    PlanError
        KD0403 a list where one value is wanted, KD0243 out of range, KD0244 wrong kind, KD0245 no such choice.
    """
    return _RULES[spec.type](spec, node, ctx)


def _one(spec: SettingSpec, node: ast.Expr, ctx: Context, want: str = "any") -> Value:
    value = ctx.eval(node, want)
    if isinstance(value, ListValue | Several):
        raise error("KD0403", node.span, name=spec.name, text=value.span.text)
    return value


def _number(spec: SettingSpec, node: ast.Expr, ctx: Context) -> Any:
    value = _one(spec, node, ctx)
    if isinstance(value, ir.Const) and value.value is None and spec.default in ("no limit", "none"):
        return None
    if not isinstance(value, ir.Const):
        raise error(
            "KD0244",
            node.span,
            what=f"`{spec.name}`",
            wants="a number" if spec.type == "number" else "an integer",
            found=describe(value),
        )
    check_range(spec, value, value.span or node.span, f"`{spec.name}`")
    return value.value


def _sizes(spec: SettingSpec, node: ast.Expr, ctx: Context) -> int | list[int]:
    """A whole number, or several in a list."""
    spec = replace(spec, type="integer")
    if not isinstance(node, ast.List):
        return _number(spec, node, ctx)  # type: ignore[no-any-return]
    sizes = _integers(spec, node, ctx)
    for size in sizes:
        check_range(spec, ir.Const(size), node.span, f"`{spec.name}`")
    return sizes


def _boolean(spec: SettingSpec, node: ast.Expr, ctx: Context) -> bool:
    if unknown_word(node, ctx, ("true", "false")):
        raise no_such_choice(spec.name, node, ("true", "false"))
    value = _one(spec, node, ctx)
    if isinstance(value, ir.Const) and isinstance(value.value, bool):
        return value.value
    raise error("KD0244", node.span, what=f"`{spec.name}`", wants="a boolean", found=describe(value))


def _boolean_or_choice(spec: SettingSpec, node: ast.Expr, ctx: Context) -> bool | str:
    if isinstance(node, ast.Name) and node.name in spec.choices and node.name not in ctx.names:
        return _BOOLEANS.get(node.name, node.name)
    if unknown_word(node, ctx, spec.choices):
        raise no_such_choice(spec.name, node, spec.choices)
    value = _one(spec, node, ctx)
    if isinstance(value, ir.Const) and (isinstance(value.value, bool) or value.value in spec.choices):
        return _BOOLEANS.get(str(value.value), value.value)
    raise no_such_choice(spec.name, node, spec.choices)


_BOOLEANS = {"true": True, "false": False}


def _string(spec: SettingSpec, node: ast.Expr, ctx: Context) -> str:
    value = _one(spec, node, ctx)
    if isinstance(value, ir.Const) and isinstance(value.value, str):
        return value.value
    help = None
    if spec.name == "weights" and isinstance(value, NetValue):
        help = f"Write `{node.span.text}` after the network's `=` to begin with its architecture and weights."
    wants = "a string in double quotes"
    raise error("KD0244", node.span, what=f"`{spec.name}`", wants=wants, found=describe(value), help=help)


def _choice(spec: SettingSpec, node: ast.Expr, ctx: Context) -> str:
    if isinstance(node, ast.Name) and node.name in spec.choices and node.name not in ctx.names:
        return node.name
    if unknown_word(node, ctx, spec.choices):
        raise no_such_choice(spec.name, node, spec.choices)
    value = _one(spec, node, ctx, spec.name)
    text = value.item.name if isinstance(value, Choice) else value.value if isinstance(value, ir.Const) else None
    if text in spec.choices:
        return str(text)
    raise no_such_choice(spec.name, node, spec.choices)


def _number_or_choice(spec: SettingSpec, node: ast.Expr, ctx: Context) -> str | int:
    """A whole number, or one of a setting's words."""
    if isinstance(node, ast.String) or (isinstance(node, ast.Name) and node.name in spec.choices):
        return _choice(spec, node, ctx)
    if unknown_word(node, ctx, spec.choices):
        raise no_such_choice(spec.name, node, spec.choices)
    return _number(replace(spec, type="integer"), node, ctx)  # type: ignore[no-any-return]


def _integers(spec: SettingSpec, node: ast.Expr, ctx: Context) -> list[int]:
    value = ctx.eval(node, "any")
    items = value.items if isinstance(value, ListValue | Several) else [value]
    numbers = []
    for item in items:
        if not (isinstance(item, ir.Const) and isinstance(item.value, int) and not isinstance(item.value, bool)):
            raise error("KD0244", node.span, what=f"`{spec.name}`", wants="integers", found=describe(item))
        numbers.append(item.value)
    return numbers


def item(want: str, value: Value, node: ast.Expr, name: str, ctx: Context) -> Item:
    """A named choice: `cosine` and `cosine()` are the same.

    Raises
    ------
    PlanError
        KD0237 where it is named without an argument that it needs, KD0244 where it is none.
    """
    if isinstance(value, Choice):
        check_required(ctx.session.tables[want].get(value.item.name), value.item.arguments, value.span)
        return value.item
    raise error(
        "KD0244",
        node.span,
        what=f"`{name}`",
        wants=f"{'an' if want[0] in 'aeiou' else 'a'} {want}",
        found=describe(value),
    )


def _item(spec: SettingSpec, node: ast.Expr, ctx: Context) -> Item:
    return item(spec.type, _one(spec, node, ctx, spec.type), node, spec.name, ctx)


def _transforms(spec: SettingSpec, node: ast.Expr, ctx: Context) -> list[Item]:
    value = ctx.eval(node, "transform")
    values = value.items if isinstance(value, ListValue | Several) else [value]
    return [item("transform", v, node, spec.name, ctx) for v in values]


def _normalize(spec: SettingSpec, node: ast.Expr, ctx: Context) -> tuple[list[float], list[float]]:
    value = ctx.eval(node, "any")
    rows: list[list[float]] = []
    wrong = False
    for row in value.items if isinstance(value, ListValue) else []:
        numbers = row.items if isinstance(row, ListValue) else [row]
        rows.append([float(cast(Any, n.value)) for n in numbers if isinstance(n, ir.Const) and is_number(n)])
        wrong = wrong or len(rows[-1]) != len(numbers)
    if wrong or len(rows) != 2 or not rows[0] or len(rows[0]) != len(rows[1]) or any(s <= 0 for s in rows[1]):
        raise error("KD0252", node.span)
    return rows[0], rows[1]


def _signal(spec: SettingSpec, node: ast.Expr, ctx: Context) -> ir.Expr:
    value = ctx.eval(node)
    if isinstance(value, ir.Const) and not is_number(value):
        raise error("KD0244", node.span, what=f"`{spec.name}`", wants="a signal", found=describe(value))
    return signal(value, ctx)


def _paths(spec: SettingSpec, node: ast.Expr, ctx: Context) -> list[str]:
    """`[fc, layer4[1]]` as dotted paths: these are names within a network, which mean nothing outside."""
    paths = []
    for item in node.items if isinstance(node, ast.List) else [node]:
        words: list[str] = []
        e: ast.Expr | ast.Comprehension = item
        while isinstance(e, ast.Attr | ast.Pick):
            key = e.picks[0] if isinstance(e, ast.Pick) and len(e.picks) == 1 else None
            if isinstance(e, ast.Pick) and not isinstance(key, ast.Number | ast.String):
                break
            words.append(e.word if isinstance(e, ast.Attr) else str(key.value))  # type: ignore[union-attr]
            e = e.base
        if not isinstance(e, ast.Name):
            raise error("KD0244", item.span, what=f"`{spec.name}`", wants="names of parts", found="another value")
        paths.append(".".join(reversed([*words, e.name])))
    return paths


def _pairs(spec: SettingSpec, node: ast.Expr, ctx: Context) -> list[list[str]]:
    """`[["backbone.", ""], …]`; one pair may stand without the outer list."""
    value = ctx.eval(node, "any")
    rows = value.items if isinstance(value, ListValue | Several) else [value]
    if rows and not any(isinstance(row, ListValue | Several) for row in rows):
        rows = [value]
    pairs: list[list[str]] = []
    for row in rows:
        items = row.items if isinstance(row, ListValue | Several) else []
        pairs.append([i.value for i in items if isinstance(i, ir.Const) and isinstance(i.value, str)])
        if len(items) != 2 or len(pairs[-1]) != 2:
            wants = 'pairs of strings, such as `[["backbone.", ""]]`'
            raise error("KD0244", node.span, what=f"`{spec.name}`", wants=wants, found=describe(value))
    return pairs


def _function(spec: SettingSpec, node: ast.Expr, ctx: Context) -> ast.Expr:
    """A function of signals, or none: what is called with them is the expression itself."""
    value = ctx.eval(node, "signal")
    none = isinstance(value, ir.Const) and value.value is None
    if not none and not isinstance(value, Builtin | FunctionValue | UserFunction):
        raise error("KD0244", node.span, what=f"`{spec.name}`", wants="a function of signals", found=describe(value))
    return node


_RULES: dict[str, Callable[[SettingSpec, ast.Expr, Context], Any]] = {
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "boolean or choice": _boolean_or_choice,
    "string": _string,
    "choice": _choice,
    "integers": _integers,
    "integer or choice": _number_or_choice,
    "integer or integers": _sizes,
    "optimizer": _item,
    "schedule": _item,
    "policy": _item,
    "split": _item,
    "protocol": _item,
    "gate": _item,
    "transforms": _transforms,
    "normalize": _normalize,
    "signal": _signal,
    "function": _function,
    "paths": _paths,
    "pairs": _pairs,
}
