"""Expressions to values: looks names up, applies functions, picks from families, folds numbers.

One function a kind of expression. What is wanted (`want`) names the table of choices that a bare name may come from:
in `optimizer = sgd(lr = 0.1)` the setting's type, not the scope, says what `sgd` is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from kdplan.constructs.table import LOCAL_NAMES
from kdplan.diagnostics.report import PlanError, error, listing, nearest, suggestion
from kdplan.diagnostics.span import Span
from kdplan.diagnostics.synonyms import network_call
from kdplan.ir import expr as ir
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS, SIGNALS
from kdplan.ir.plan import Item
from kdplan.passes.load import Declared, Module, UserCode, ambiguous
from kdplan.resolve import arguments, arithmetic, declared, picks, signals, versions
from kdplan.resolve.context import Context, Rule, cycle
from kdplan.resolve.expected import by_itself, versions_by
from kdplan.resolve.given import not_given
from kdplan.resolve.kinds.model import argument_classes
from kdplan.resolve.plan_functions import plan_function
from kdplan.resolve.spread import comprehend, spread
from kdplan.resolve.values import (
    Applied,
    Builtin,
    Case,
    Choice,
    ClassesValue,
    DataValue,
    FunctionValue,
    Lazy,
    ListValue,
    ModelValue,
    Namespace,
    NetValue,
    PartOf,
    Routing,
    Several,
    UserFunction,
    Value,
    VerticalsValue,
    describe,
)
from kdplan.syntax import ast
from kdplan.syntax.build import FOREIGN_HELPS


def _number(node: ast.Number, ctx: Context, want: str) -> Value:
    return ir.Const(node.value, span=node.span)


def _string(node: ast.String, ctx: Context, want: str) -> Value:
    return ir.Const(node.value, span=node.span)


CONSTANTS: dict[str, Any] = {"true": True, "false": False, "none": None}


def _name(node: ast.Name, ctx: Context, want: str) -> Value:
    """What a bare name means here: local names, then declarations, then the table that is wanted, then built-ins."""
    name, span = node.name, node.span
    if name in ctx.names:
        return force(ctx.names[name], span, ctx, want)
    thing = ctx.module.scope.get(name)
    table = ctx.session.tables.get(want, {})
    if thing is not None and name != ctx.exclude and not (name in table and _is_no_choice(thing, want)):
        return declared_value(thing, span, ctx, want)
    if name in ctx.module.lost:
        raise PlanError([])  # its declaration is wrong, which was reported already
    if name in table:
        return Choice(Item(name, span=span), span)
    if name in CONSTANTS:
        return ir.Const(CONSTANTS[name], span=span)
    if name in SIGNALS and table:
        raise unknown(name, span, ctx, want)  # `schedule = step(30)`: no signal can be a choice
    spec = FUNCTIONS.get(name) or PLAN_FUNCTIONS.get(name)
    if spec is not None:
        return Builtin(spec, span)
    if name in SIGNALS:
        return signals.stream_or_counter(name, span, ctx)
    raise unknown(name, span, ctx, want)


def _is_no_choice(thing: Declared | Module | UserCode, want: str) -> bool:
    """Whether a declaration never stands for a choice of a table: `recipe sgd` is no optimizer."""
    return want != "model" and isinstance(thing, Declared) and thing.kind not in ("param", "def")


def unknown(name: str, span: Span, ctx: Context, want: str) -> Exception:
    """The error for a name without a meaning: KD0205, or a more exact one.

    KD0208 for a name that has a meaning elsewhere, KD0209 for `self` outside a network, KD0235 for a declaration's own
    name, KD0244 for a value of `--set` of another type, KD0278 for a param of several files. It is empty where the name
    may be the consequence of a reported mistake.
    """
    if ctx.module.knows_of(name):
        return PlanError([])
    several = ctx.module.param(name)
    if len(several) > 1:
        return ambiguous(name, ctx.module, span)
    table = ctx.session.tables.get(want, {})
    local = LOCAL_NAMES.get(name)
    if local is not None:
        help = local.first if local.first and local.kind in ctx.names else None
        return error("KD0208", span, name=name, kind=local.kind, help=help)
    if name == "self":
        return error("KD0209", span)
    given = None if table else not_given(name, span, ctx.module, ctx.session.tables)
    if given is not None:
        return given
    built_in = table or [*CONSTANTS, *FUNCTIONS, *SIGNALS]
    own = ctx.module.scope.get(name) if name == ctx.exclude else None
    near = nearest(name, [*ctx.names, *(n for n in ctx.module.scope if own is None or n != name), *built_in])
    help = None
    call = network_call(name) if want == "model" else None
    if isinstance(own, Declared) and own.module is ctx.module and call is None:
        itself = by_itself(own, span, near if near is None else where(near, ctx))
        if itself is not None:
            return itself
    if call is not None:
        help = f"Write `{call}`."
    elif name in FOREIGN_HELPS:
        help = FOREIGN_HELPS[name]
    elif name in ("range", "arange"):
        help = "Write a range with both ends, such as `0..2` for three numbers."
    elif want == "network" and (versions_by_it := versions_by(name, ctx.module)):
        help = versions_by_it
    elif near:
        help = f"Did you mean {where(near, ctx)}?"
    elif table:
        help = f"Choose from {listing(sorted(table), 16)}."
    return error("KD0205", span, name=name, help=help)


def where(name: str, ctx: Context) -> str:
    """A name for a message, with its kind and line where the file declares it."""
    thing = ctx.module.scope.get(name)
    if isinstance(thing, Declared):
        return f"`{name}` ({thing.kind}, line {thing.node.span.line})"
    return f"`{name}`"


def force(value: Value | Lazy, span: Span, ctx: Context, want: str) -> Value:
    """A value; a lazy one is evaluated in its own file."""
    if not isinstance(value, Lazy):
        return value
    return ctx.child(module=value.module, names={}, exclude=None).eval(value.node, want)


def declared_value(thing: Declared | Module | UserCode, span: Span, ctx: Context, want: str) -> Value:
    """The value of a name in the scope of a file: of a declaration, of a used file, of user code."""
    if isinstance(thing, Module):
        return Namespace(thing, span)
    if isinstance(thing, UserCode):
        return UserFunction(thing, "", span)
    return declared.value(thing, span, ctx, want)


# ---- attributes


def _attr(node: ast.Attr, ctx: Context, want: str) -> Value:
    base = ctx.eval(node.base, "any" if want != "signal" else "signal")
    return attribute(base, node.word, node, ctx, want)


def attribute(base: Value, word: str, node: ast.Attr, ctx: Context, want: str) -> Value:
    """`base.word`.

    Raises
    ------
    PlanError
        KD0205 for a name that a used file lacks, KD0231 for a value without attributes, KD0232 for a field that a
        record lacks; KD0248, KD0702 and KD0704 to KD0707 for data.
    """
    span = node.span
    if isinstance(base, Several):
        return Several([attribute(b, word, node, ctx, want) for b in base.items], span)
    if isinstance(base, Routing):
        return replace(base, items=[attribute(b, word, node, ctx, want) for b in base.items], span=span)
    if isinstance(base, NetValue):
        return replace(base, path=(*base.path, word), span=span)
    if isinstance(base, Applied) and not base.since:
        return replace(base, path=(*base.path, word), span=span)
    if isinstance(base, DataValue):
        return signals.data_attribute(base, word, node.word_span, span, ctx)
    if isinstance(base, Case):
        if word not in base.fields:
            known = listing(base.fields)
            raise error("KD0232", node.word_span, name=word, known=known, nearest=nearest(word, base.fields))
        return base.fields[word]
    if isinstance(base, Namespace):
        inner = base.module.scope.get(word)
        if inner is None and base.module.knows_of(word):
            raise PlanError([])
        if inner is None:
            raise error("KD0205", node.word_span, name=word, help=suggestion(word, base.module.scope))
        return declared_value(inner, span, ctx, want)
    if isinstance(base, UserFunction) and not base.name:
        return UserFunction(base.code, word, span)
    if isinstance(base, VerticalsValue | ClassesValue) and word == "classes":
        return base
    raise error("KD0231", node.word_span, word=word, what=describe(base))


def _version(node: ast.Version, ctx: Context, want: str) -> Value:
    fixed = picks.hoisted(node, ctx)
    if fixed is not None:
        return picks.pick(fixed, ctx, want)
    return versions.version(ctx.eval(node.base, "network"), node, ctx)


# ---- calls


def _call(node: ast.Call, ctx: Context, want: str) -> Value:
    function = ctx.eval(node.function, want)
    if isinstance(function, Several):
        return Several([call(f, node, ctx, want) for f in function.items], node.span)
    return call(function, node, ctx, want)


def call(function: Value, node: ast.Call, ctx: Context, want: str) -> Value:
    """`function(…)`.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments, KD0234 for what cannot be called, KD0235 for a recursion.
    """
    if isinstance(function, Builtin):
        if function.spec.name in PLAN_FUNCTIONS:
            return plan_function(function.spec, node, ctx)
        return arguments.built_in(function.spec, node, ctx)
    if isinstance(function, FunctionValue):
        return _inline(function, node, ctx, want)
    if isinstance(function, NetValue):
        inputs = [signals.signal(ctx.eval(a), ctx) for a in node.args]
        if node.keywords:
            raise arguments.unknown_parameter(node.keywords[0], "a network", [])
        return Applied(function, inputs, (), node.span, (id(node), *ctx.site))
    if isinstance(function, UserFunction):
        if want in ("model", "source", "gate"):
            return Choice(
                Item(
                    f"{function.code.path}:{function.name}",
                    arguments.choice_arguments(None, node, ctx),
                    span=node.span,
                ),
                node.span,
            )
        args = [signals.argument(v, ctx) for v in spread(node.args, ctx, lists=False)]
        keywords = {k.name: signals.argument(ctx.eval(k.value), ctx) for k in node.keywords}
        called = ir.Call(f"{function.code.path}:{function.name}", args, keywords, span=node.span)
        return ctx.session.budget.tree(called, node.span)
    if isinstance(function, Choice):
        spec = ctx.session.tables[want].get(function.item.name)
        given = arguments.choice_arguments(spec, node, ctx)
        written = arguments.written_lists(spec, given, node, ctx) if spec is not None else {}
        return Choice(Item(function.item.name, given, span=node.span, written=written), node.span)
    if isinstance(function, ModelValue):
        spec = ctx.session.tables["model"].get(function.item.name)
        given = arguments.choice_arguments(spec, node, ctx, function.item.arguments)
        item = Item(function.item.name, {**function.item.arguments, **given}, span=node.span)
        own = argument_classes(node, ctx)
        classes = own if own is not None or "classes" in given else function.classes
        return ModelValue(item, classes, function.code, node.span)
    if isinstance(function, Routing):
        return replace(function, items=[call(f, node, ctx, want) for f in function.items], span=node.span)
    if isinstance(function, VerticalsValue):
        return PartOf(function, signals.labels_for(function, node, ctx), node.span)
    help = None
    if isinstance(node.function, ast.Name) and ctx.module.param(node.function.name):
        help = f"Give `{node.function.name}` the name of what is called here."
    raise error("KD0234", node.function.span, what=describe(function), help=help)


def _inline(function: FunctionValue, node: ast.Call, ctx: Context, want: str) -> Value:
    definition = function.declared.node
    params = definition.params or []
    key = (function.declared, "call")
    if key in ctx.session.active:  # nothing in a plan could end a recursion
        raise cycle(ctx.session, key, node.span)
    given: dict[str, Value] = {}
    if len(node.args) > len(params):
        raise arguments.too_many(node.args[len(params)].span, function.declared.name, [p.name for p in params])
    for param, arg in zip(params, node.args, strict=False):
        given[param.name] = ctx.eval(arg, "any")
    for keyword in node.keywords:
        if keyword.name not in [p.name for p in params]:
            raise arguments.unknown_parameter(keyword, f"`{function.declared.name}`", [p.name for p in params])
        if keyword.name in given:
            raise arguments.unknown_parameter(keyword, f"`{function.declared.name}`", [], given=True)
        given[keyword.name] = ctx.eval(keyword.value, "any")
    names = {**function.names, **given}
    inner = ctx.child(module=function.declared.module, names=names, exclude=None, site=(*ctx.site, id(node)))
    for param in params:
        if param.name not in given:
            if param.default is None:
                raise error("KD0237", node.span, function=function.declared.name, name=param.name)
            inner.names[param.name] = inner.child(names={}).eval(param.default, "any")
    body = definition.clause("=")
    assert body is not None
    ctx.session.active[key] = node.span
    try:
        return inner.eval(body.exprs[0], want)
    finally:
        del ctx.session.active[key]


# ---- lists


def _list(node: ast.List, ctx: Context, want: str) -> Value:
    items: list[Value] = []
    for item in node.items:
        if isinstance(item, ast.Comprehension):
            items.extend(comprehend(item, ctx, want))
        else:
            value = ctx.eval(item, want)
            items.extend(value.items if isinstance(value, Several) else [value])
    return ListValue(items, node.span)


def _comprehension(node: ast.Comprehension, ctx: Context, want: str) -> Value:
    return ListValue(comprehend(node, ctx, want), node.span)


def _range(node: ast.Range, ctx: Context, want: str) -> Value:
    low = arithmetic.integer(ctx.eval(node.low, "any"), node.low.span)
    high = arithmetic.integer(ctx.eval(node.high, "any"), node.high.span)
    ctx.session.budget.elements(max(0, high - low + 1), node.span)
    return ListValue([ir.Const(i, span=node.span) for i in range(low, high + 1)], node.span)


# ---- operators


def _chain(node: ast.Chain, ctx: Context, want: str) -> Value:
    if want == "head":
        return ListValue([ctx.eval(p, want) for p in node.parts], node.span)
    raise error("KD0239", node.span)


def _misplaced(node: ast.Expr, ctx: Context, want: str) -> Value:
    raise error("KD0240", node.span, text=node.span.text)


RULES: dict[type[ast.Expr], Rule] = {
    ast.Number: _number,
    ast.String: _string,
    ast.Name: _name,
    ast.Attr: _attr,
    ast.Version: _version,
    ast.Pick: picks.pick,
    ast.Call: _call,
    ast.List: _list,
    ast.Comprehension: _comprehension,
    ast.Range: _range,
    ast.Binary: arithmetic.binary,
    ast.Negate: arithmetic.negate,
    ast.Chain: _chain,
    ast.All: _misplaced,
    ast.Coordinate: _misplaced,
}
