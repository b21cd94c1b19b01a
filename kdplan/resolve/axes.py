"""Param axes: their values, how they are shown, and the coordinates of what reads them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.passes.load import Declared, Module
from kdplan.resolve.context import Context, NeedAxis, remember
from kdplan.resolve.spread import comprehend, iterate
from kdplan.resolve.values import ClassesValue, Label, Lazy, Value
from kdplan.syntax import ast
from kdplan.syntax.walk import walk


def axis_of(declared: Declared) -> Declared | None:
    """The axis that a declaration is: a param with `in`, or one that was given a list from outside. A setting of `use`
    that is a param, `{ seed }`, passes on that param's axis. None for all else."""
    if declared.kind != "param":
        return None
    override = declared.module.overrides.get(declared.name)
    is_swept = declared.node.clause("in") is not None
    if override is None:
        return declared if is_swept else None
    if isinstance(override.value, ast.List | ast.Range):
        return declared
    if not any(_param(n, override.module) for n in walk(override.value)):
        return declared if is_swept else None  # one value: still an axis, so that `[seed = 0]` still picks from it
    passed = _param(override.value, override.module)
    return axis_of(passed) if passed not in (None, declared) else None


def _param(node: ast.Node | ast.File, module: Module) -> Declared | None:
    """The param that `seed` or `base.seed` names in a file, if it is one."""
    thing = module.scope.get(node.name) if isinstance(node, ast.Name) else None
    if isinstance(node, ast.Attr) and isinstance(node.base, ast.Name):
        used = module.scope.get(node.base.name)
        thing = used.scope.get(node.word) if isinstance(used, Module) else None
    return thing if isinstance(thing, Declared) and thing.kind == "param" else None


def is_named(node: ast.Expr, module: Module) -> bool:
    """Whether an expression of a file is the name of an axis: `seed`, or `base.seed` of a file that it uses."""
    param = _param(node, module)
    return param is not None and axis_of(param) is not None


def is_axis(declared: Declared) -> bool:
    """Whether a declaration is an axis of its own: a param with `in`, or one that was given a list from outside."""
    return axis_of(declared) is declared


def is_set(axis: Declared) -> bool:
    """Whether the values of an axis come from `--set`."""
    override = axis.module.overrides.get(axis.name)
    return override is not None and override.set


def given(param: Declared) -> Lazy:
    """What a param is declared to be, or is given from outside, and the file in which that has its meaning."""
    override = param.module.overrides.get(param.name)
    if override is not None:
        return Lazy(override.value, override.module)
    clause = param.node.clause("=") or param.node.clause("in")
    assert clause is not None
    return Lazy(clause.exprs[0], param.module)


def items(axis: Declared, ctx: Context) -> list[Value | Lazy]:
    """The values of an axis; those whose meaning depends on where they are read stay unevaluated.

    Raises
    ------
    PlanError
        KD0405 where there are none, KD0413 where another axis decides which they are.
    """
    span = axis.node.name_span or axis.node.span
    everywhere = ctx.child(coords={}, reads=set())
    return remember(everywhere, (axis, "items"), "param", span, lambda inner: _items(axis, inner))


def _items(axis: Declared, ctx: Context) -> list[Value | Lazy]:
    whole = given(axis)
    try:
        return _evaluated(axis, whole, ctx)
    except NeedAxis as need:
        raise error("KD0413", whole.node.span, name=axis.name, other=need.axis.name) from None


def _evaluated(axis: Declared, whole: Lazy, ctx: Context) -> list[Value | Lazy]:
    node, module = whole.node, whole.module
    inner = ctx.in_module(module).child(exclude=axis.name)
    if axis.name in axis.module.overrides and not isinstance(node, ast.List | ast.Range):
        return [inner.eval(node, "any") if isinstance(node, ast.Binary) else whole]  # `1/3` is shown as a number
    if isinstance(node, ast.List):
        values: list[Value | Lazy] = []
        for item in node.items:
            if isinstance(item, ast.Comprehension):
                values.extend(comprehend(item, inner, "any"))
            else:
                values.append(Lazy(item, module))
    else:
        values = list(iterate(inner.eval(node, "any"), node.span))
    if not values:
        raise error("KD0405", node.span, name=axis.name)
    return values


def label(item: Value | Lazy, index: int) -> Label:
    """How a value is shown in names: a number or text as itself, a name as written, all else by its position."""
    if isinstance(item, Lazy):
        node = item.node
        if isinstance(node, ast.Number | ast.String):
            return node.value
        if isinstance(node, ast.Negate) and isinstance(node.operand, ast.Number):
            return -node.operand.value
        return node.name if isinstance(node, ast.Name) else index
    if isinstance(item, ir.Const):
        return item.value
    if isinstance(item, ClassesValue) and item.classes.label is not None:
        return item.classes.label
    return index


def labels(axis: Declared, ctx: Context) -> list[Label]:
    """How the values of an axis are shown, in their order."""
    span = axis.node.name_span or axis.node.span

    def make(inner: Context) -> list[Label]:
        return [label(item, i) for i, item in enumerate(items(axis, inner))]

    return remember(ctx, (axis, "labels"), "param", span, make)


def size(ctx: Context, axis: Declared) -> int:
    """How many values an axis has."""
    return len(items(axis, ctx))


def coordinates(ctx: Context, indices: Collection[str] = ()) -> dict[str, Label]:
    """The coordinates that have been read so far, by axis name, in the order of declaration.

    Raises
    ------
    PlanError
        KD0411 where two axes have one name, or an axis that of one of the `indices` of the declaration.
    """
    ordered = sorted(ctx.reads, key=lambda d: (d.module.source.path, d.node.span.start))
    taken: dict[str, str] = dict.fromkeys(indices, "an index")
    for axis in ordered:
        span = axis.node.name_span or axis.node.span
        if axis.name in taken:
            raise error("KD0411", span, name=axis.name, other=taken[axis.name])
        taken[axis.name] = f"the param of {span.file}, line {span.line}"
    return {axis.name: labels(axis, ctx)[ctx.coords[axis]] for axis in ordered}


def suffix(slots: Mapping[str, object], coords: Mapping[str, object]) -> str:
    """`[v=food, seed=0]`, or "" where there is nothing to tell apart.

    >>> suffix({"v": "food"}, {"seed": 0})
    '[v=food, seed=0]'
    """
    parts = [f"{n}={v}" for n, v in {**slots, **coords}.items()]
    return f"[{', '.join(parts)}]" if parts else ""
