"""Arguments of calls: bound to the parameters of the tables, and checked against their types, choices and ranges."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from typing import Any, cast

from kdplan.diagnostics.report import PlanError, counted, error, listing, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.spec import Param, SettingSpec, Spec
from kdplan.resolve.arithmetic import call_of_numbers, integer, is_number, total
from kdplan.resolve.choices import word_type
from kdplan.resolve.class_trees import ancestors
from kdplan.resolve.context import Context
from kdplan.resolve.signals import signal
from kdplan.resolve.spread import spread
from kdplan.resolve.values import Case, Choice, ClassesValue, ListValue, Several, Value, VerticalsValue, describe
from kdplan.syntax import ast
from kdplan.syntax.walk import walk

# ---- built-in functions of signals


def built_in(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    """A call of a built-in function of signals; of numbers alone it is folded.

    Raises
    ------
    PlanError
        As `bind`; KD0242 to KD0246 for arguments of a wrong type or out of range, KD0284 for labels that are none.
    """
    values = _positional(spec, node.args, ctx)
    number = call_of_numbers(spec.name, values, node.span, ctx) if not node.keywords else None
    if number is not None:
        return number
    if spec.name == "sum" and (len(values) > 1 or (node.args and not _plain(node.args[0]))):
        return total(values, node.span, ctx)
    bound = bind(spec, values, node, ctx)
    args: list[ir.Expr] = []
    keywords: dict[str, ir.Expr] = {}
    for param, value in bound:
        if param.type == "ancestors":
            keywords[param.name] = _ancestors(value, args[0], node, ctx)
            continue
        checked = _argument(spec, param, value, node, ctx)
        if param.type == "signal":
            args.append(checked)
        elif (
            not param.choices or cast(ir.Const, checked).value != param.default
        ):  # a default written out changes no key
            keywords[param.name] = checked
    return ctx.session.budget.tree(ir.Call(spec.name, args, keywords, span=node.span), node.span)


def _positional(spec: Spec, nodes: list[ast.Expr], ctx: Context) -> list[Value]:
    """Arguments without names; where a word is wanted, it is no name to look up."""
    values: list[Value] = []
    for node in nodes:
        param = spec.params[len(values)] if len(values) < len(spec.params) else None
        if param is not None and param.choices:
            values.append(chosen(param, node, ctx))
        elif param is not None and param.type == "verticals":
            values.append(ctx.eval(node, "any"))
        else:
            values.extend(spread([node], ctx))
    return values


def _plain(node: ast.Expr) -> bool:
    return not isinstance(node, ast.Comprehension | ast.List | ast.Range)


def bind(spec: Spec, values: list[Value], node: ast.Call, ctx: Context) -> list[tuple[Param, Value]]:
    """Arguments to parameters.

    Raises
    ------
    PlanError
        KD0230 unknown parameter, KD0236 too many, KD0237 a required one is missing.
    """
    params = list(spec.params)
    if spec.more and params:
        params += [params[-1]] * max(0, len(values) - len(params))
    if len(values) > len(params):
        raise too_many(values[len(params)].span or node.span, spec.name, [p.name for p in spec.params])
    bound = list(zip(params, values, strict=False))
    for keyword in node.keywords:
        param = spec.param(keyword.name)
        if param is None or (param, True) in [(p, True) for p, _ in bound]:
            raise unknown_parameter(keyword, f"`{spec.name}`", [p.name for p in spec.params], given=param is not None)
        value = chosen(param, keyword.value, ctx) if param.choices else ctx.eval(keyword.value)
        bound.append((param, value))
    own = list(spec.params)
    bound.sort(key=lambda pair: own.index(pair[0]))
    given = {p.name for p, _ in bound}
    for param in spec.params:
        if param.name not in given and param.required:
            raise error("KD0237", node.span, function=spec.name, name=param.name)
    if spec.one_of:
        _exactly_one(spec, given, node)
    return bound


def _exactly_one(spec: Spec, given: set[str], node: ast.Call) -> None:
    """KD0237 where none of the parameters is given of which one is needed, KD0275 where several are."""
    names = [name for name in spec.one_of if name in given]
    if not names:
        raise error("KD0237", node.span, function=spec.name, name="` or `".join(spec.one_of))
    if len(names) > 1:
        second = next((k.value.span for k in reversed(node.keywords) if k.name in names), node.span)
        raise error("KD0275", second, function=spec.name, names=listing(names))


def _argument(spec: Spec, param: Param, value: Value, node: ast.Call, ctx: Context) -> ir.Expr:
    span = value.span or node.span
    if param.type == "signal":
        return signal(value, ctx)
    if param.type == "classes":
        if isinstance(value, ClassesValue):
            return ir.Const(len(value.classes.ids), span=span)
        return ir.Const(integer(value, span), span=span)
    if param.type == "verticals":
        return ir.Const(_class_lists(value, span, f"`{param.name}` of `{spec.name}`"), span=span)
    if param.type == "positions":
        rows = plain(value, span) if isinstance(value, ListValue) else []
        if not rows or not all(type(i) is int for i in rows):
            raise error("KD0244", span, what=f"`{param.name}` of `{spec.name}`", wants="a list of integers",
                        found=describe(value))  # fmt: skip
        return ir.Const(rows, span=span)
    if not isinstance(value, ir.Const):
        raise error(
            "KD0242",
            span,
            name=param.name,
            function=spec.name,
            wants=f"a value of type `{param.type}`",
            what=describe(value),
        )
    check_range(param, value, span, f"`{param.name}` of `{spec.name}`")
    return value


def _ancestors(value: Value, labels: ir.Expr, node: ast.Call, ctx: Context) -> ir.Const:
    """For each class that has classes above it, its number and theirs: as they stand, or from a file."""
    span = value.span or node.span
    if isinstance(value, ListValue):
        return ir.Const(_class_lists(value, span, "`hierarchy` of `smear`"), span=span)
    if not isinstance(value, ir.Const) or not isinstance(value.value, str):
        raise error("KD0244", span, what="`hierarchy` of `smear`", wants="a file's name", found=describe(value))
    if not isinstance(labels, ir.StreamField) or labels.field != "labels" or ctx.phase is None:
        raise error("KD0284", labels.span or node.span, name="smear")
    data = ctx.phase.streams[labels.stream][1].data
    known, key = ctx.session.ancestors, (value.value, ctx.module.folder, data.name)
    if key not in known:  # each of a hundred specialists asks for it
        known[key] = ancestors(value.value, data, ctx.module, ctx.session.root, span)
    return ir.Const(known[key], span=span)


def _class_lists(value: Value, span: Span, what: str) -> list[list[int]]:
    """Verticals, or lists of class numbers, as such lists."""
    if isinstance(value, VerticalsValue):
        return [list(p.ids) for p in value.parts]
    rows = [plain(v, span) for v in value.items] if isinstance(value, ListValue) else []
    if not rows or not all(isinstance(r, list) and r and all(type(c) is int for c in r) for r in rows):
        raise error("KD0244", span, what=what, wants="verticals, or lists of class numbers", found=describe(value))
    return rows


# ---- one argument


def chosen(param: Param, node: ast.Expr, ctx: Context) -> ir.Const:
    """The value of a parameter that takes one of a few words: the word itself, its text, or a name that stands for it.

    Raises
    ------
    PlanError
        KD0245 if it is none of them, KD0403 for several.
    """
    if isinstance(node, ast.Name) and node.name in param.choices and node.name not in ctx.names:
        return ir.Const(node.name, span=node.span)
    if not unknown_word(node, ctx, param.choices):
        value = ctx.eval(node, word_type(param))
        if isinstance(value, ListValue | Several):
            raise error("KD0403", node.span, name=param.name, text=node.span.text)
        text = value.item.name if isinstance(value, Choice) else value.value if isinstance(value, ir.Const) else None
        if text in param.choices or (text is None and isinstance(value, ir.Const) and param.default is None):
            return ir.Const(text, span=value.span)
    raise no_such_choice(param.name, node, param.choices)


def no_such_choice(name: str, node: ast.Expr, known: Collection[str]) -> PlanError:
    """KD0245 for a value that is none of a few words."""
    text = node.span.text
    return error("KD0245", node.span, name=name, value=text, help=suggestion(text, known))


def unknown_word(node: ast.Expr, ctx: Context, known: Collection[str]) -> bool:
    """Whether a value is a bare name that means nothing: what could stand there is said then."""
    return isinstance(node, ast.Name) and node.name not in known and not (
        node.name in ctx.names or node.name in ctx.module.scope or ctx.module.knows_of(node.name)
    )  # fmt: skip


def unknown_parameter(keyword: ast.Keyword, function: str, known: list[str], given: bool = False) -> PlanError:
    """KD0230, with the nearest parameter or all of them; KD0226 for one that is given twice."""
    if given:
        return error("KD0226", keyword.name_span, function=function, name=keyword.name)
    help = suggestion(keyword.name, known) or "Delete it."
    return error("KD0230", keyword.name_span, function=function, name=keyword.name, help=help)


def too_many(span: Span, function: str, known: list[str]) -> PlanError:
    """KD0236, with the parameters that there are."""
    help = f"Use only {listing(known)}." if known else None
    return error("KD0236", span, function=function, count=counted(len(known), "argument"), help=help)


def check_required(spec: Spec | None, given: Collection[str], span: Span) -> None:
    """KD0237 where a choice lacks an argument that has no default."""
    if spec is None:
        return
    for param in spec.params:
        if param.required and param.name not in given:
            raise error("KD0237", span, function=spec.name, name=param.name)


def check_range(param: Param | SettingSpec, value: ir.Const, span: Span, what: str) -> None:
    """KD0243 if a number is not of the wanted kind or outside what `param` (low, above, high) allows."""
    number = value.value
    whole = param.type in ("integer", "classes")
    if (param.type == "number" or whole) and not is_number(value):
        raise error("KD0244", span, what=what, wants=_WANTED[param.type], found=describe(value))
    if whole and not isinstance(number, int):
        raise error("KD0244", span, what=what, wants="an integer", found=str(number))
    if param.type == "string" and not isinstance(number, str):
        raise error("KD0244", span, what=what, wants="a string in double quotes", found=describe(value))
    if param.type == "boolean" and not isinstance(number, bool):
        raise error("KD0244", span, what=what, wants="a boolean", found=describe(value))
    if not is_number(value):
        return
    assert isinstance(number, int | float)
    for limit, bad, words in (
        (param.above, operator.le, "more than"),
        (param.low, operator.lt, "at least"),
        (param.high, operator.gt, "at most"),
    ):
        if limit is not None and bad(number, limit):
            raise error("KD0243", span, what=what, limit=f"{words} {limit:g}", value=f"{number:g}")


# ---- arguments as plain values


def plain(value: Value, span: Span) -> Any:
    """A value as JSON would hold it: for the arguments of sources, models, optimizers, transforms."""
    if isinstance(value, ir.Const):
        return value.value
    if isinstance(value, ListValue | Several):
        return [plain(v, span) for v in value.items]
    if isinstance(value, ClassesValue):
        return len(value.classes.ids)
    if isinstance(value, VerticalsValue):
        return [list(p.ids) for p in value.parts]
    if isinstance(value, Choice):
        return value.item.name if not value.item.arguments else {"name": value.item.name, **value.item.arguments}
    if isinstance(value, Case):
        return {name: plain(v, span) for name, v in value.fields.items()}
    raise error("KD0249", span, wants="a number, a string or a list", found=describe(value))


def choice_arguments(spec: Spec | None, node: ast.Call, ctx: Context, before: Collection[str] = ()) -> dict[str, Any]:
    """Arguments of a choice by name, as plain values; positional ones are named by the table's row. Needed are those
    that were not given `before`.

    Raises
    ------
    PlanError
        KD0230, KD0236, KD0237 as for functions; KD0243, KD0244 for values out of range.
    """
    params: list[Param] = list(spec.params) if spec is not None else []
    open_ended = spec is None or spec.more
    arguments: dict[str, Any] = {}
    name = spec.name if spec is not None else "this"
    for i, arg in enumerate(node.args):
        if spec is not None and i < len(params) and params[i].choices:
            arguments[params[i].name] = chosen(params[i], arg, ctx).value
            continue
        value = ctx.eval(arg, "any")
        if spec is None:
            raise error("KD0227", arg.span, function=node.function.span.text)
        if i >= len(params):
            raise too_many(arg.span, name, [p.name for p in params])
        arguments[params[i].name] = _plain_argument(params[i], value, arg.span, name)
    for keyword in node.keywords:
        param = next((p for p in params if p.name == keyword.name), None)
        if (param is None and not open_ended) or keyword.name in arguments:
            raise unknown_parameter(keyword, f"`{name}`", [p.name for p in params], given=keyword.name in arguments)
        if param is not None and param.choices:
            arguments[keyword.name] = chosen(param, keyword.value, ctx).value
            continue
        value = ctx.eval(keyword.value, "name" if param is not None and param.type == "name" else "any")
        arguments[keyword.name] = _plain_argument(param, value, keyword.value.span, name)
    check_required(spec, {*before, *arguments}, node.span)
    return arguments


def written_lists(spec: Spec, arguments: Mapping[str, Any], node: ast.Call, ctx: Context) -> dict[str, str]:
    """How a call writes those of its `arguments` that are lists, where the text has the same meaning elsewhere."""
    written = dict(zip((p.name for p in spec.params), node.args, strict=False))
    written |= {k.name: k.value for k in node.keywords}
    lists = {name: e for name, e in written.items() if isinstance(arguments.get(name), list)}
    local = {name for name, e in lists.items() for n in walk(e) if isinstance(n, ast.Name) and n.name in ctx.names}
    return {name: " ".join(e.span.text.split()) for name, e in lists.items() if name not in local}


def _check_list(param: Param, value: Value, span: Span, what: str) -> None:
    """KD0244 where a list of numbers is wanted and this is none, KD0243 where a number is out of range."""
    whole = param.type == "integers"
    wants = "a list of integers" if whole else "a list of numbers"
    if isinstance(value, ir.Const) and value.value is None:
        return
    if not isinstance(value, ListValue | Several):
        raise error("KD0244", span, what=what, wants=wants, found=describe(value))
    for one in value.items:
        number = one.value if isinstance(one, ir.Const) else ""
        if number is not None and not isinstance(number, int if whole else int | float):
            raise error("KD0244", span, what=what, wants=wants, found=f"a list with {describe(one)}")
        if isinstance(one, ir.Const) and number is not None:
            check_range(param, one, one.span or span, what)


_WANTED = {
    "number": "a number",
    "integer": "an integer",
    "classes": "a number or a class set",
    "boolean": "a boolean",
    "string": "a string in double quotes",
}
"""Types of parameters that take one plain value, in words."""


def _plain_argument(param: Param | None, value: Value, span: Span, function: str) -> Any:
    if param is None:
        return plain(value, span)
    what = f"`{param.name}` of `{function}`"
    is_none = isinstance(value, ir.Const) and value.value is None
    if is_none and param.default is None:
        return None
    if param.type in _WANTED:
        if isinstance(value, ListValue | Several):
            raise error("KD0403", span, name=param.name, text=span.text)
        counts = param.type in ("classes", "integer", "number") and isinstance(value, ClassesValue)
        fits = isinstance(value, ir.Const) or counts
        if is_none or not fits:
            raise error("KD0244", span, what=what, wants=_WANTED[param.type], found=describe(value))
    if param.type in ("numbers", "integers"):
        _check_list(param, value, span, what)
    if isinstance(value, ir.Const) and not is_none:
        check_range(param, value, value.span or span, what)
    if param.type == "verticals":
        return _class_lists(value, span, what)
    return plain(value, span)
