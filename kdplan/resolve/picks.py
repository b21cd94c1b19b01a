"""`base[…]`: members of families, points of axes, snapshots of versions, items of lists, classes of data."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdplan.diagnostics.report import PlanError, counted, error, listing, nearest, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCH
from kdplan.ir.snapshots import kept
from kdplan.ir.versions import slot_in
from kdplan.passes.legal import snapshot_help
from kdplan.passes.load import Declared, Module
from kdplan.resolve import axes
from kdplan.resolve.context import Context, pinned
from kdplan.resolve.declared import slot_items
from kdplan.resolve.declared import value as declared_value
from kdplan.resolve.derive.named import is_branches, pick_branch
from kdplan.resolve.kinds.verticals import class_numbers
from kdplan.resolve.spread import iterate
from kdplan.resolve.values import (
    Applied,
    Bound,
    ClassesValue,
    DataValue,
    Family,
    Label,
    ListValue,
    NetValue,
    PartOf,
    Routing,
    Several,
    Value,
    VerticalsValue,
    describe,
)
from kdplan.resolve.versions import member
from kdplan.syntax import ast

SNAPSHOT_AXES = ("epoch", "cycle")
_SNAPSHOTS_HELP = "Pick `[best]`, `[ema]` or `[epoch = 3]`, or declare several networks with `param` or `name[i in …]`."


def pick(node: ast.Pick, ctx: Context, want: str) -> Value:
    """Coordinates are fixed before the base is looked at; positions choose from what it is."""
    pins: list[tuple[Declared, list[int]]] = []
    rest: list[ast.Expr] = []
    for p in node.picks:
        axis = _axis(p, node, ctx) if isinstance(p, ast.Coordinate) else None
        if axis is not None:
            assert isinstance(p, ast.Coordinate)
            pins.append((axis, _points(p, axis, ctx)))
        else:
            rest.append(p)
    many = any(isinstance(p, ast.Coordinate) and isinstance(p.value, ast.All | ast.Range) for p in node.picks)
    results: list[Value] = []
    for point in itertools.product(*[points for _, points in pins]):
        fixed = dict(zip([axis for axis, _ in pins], point, strict=True))
        results.append(pinned(ctx, fixed, lambda inner: _positions(node, rest, inner, want)))
    if len(results) == 1 and not many:
        return results[0]
    return Several([v for r in results for v in (r.items if isinstance(r, Several) else [r])], node.span)


def hoisted(node: ast.Version, ctx: Context) -> ast.Pick | None:
    """`small[seed = 1]@kd` as `(small@kd)[seed = 1]`: a point that is picked on an axis holds for what stands right of
    it too. None where the base picks on no axis."""
    base = node.base
    if not isinstance(base, ast.Pick):
        return None
    coordinates = [p for p in base.picks if isinstance(p, ast.Coordinate) and _axis(p, base, ctx) is not None]
    if not coordinates:
        return None
    rest = [p for p in base.picks if p not in coordinates]
    inner = ast.Pick(base.span, base.base, rest) if rest else base.base
    return ast.Pick(node.span, ast.Version(node.span, inner, node.phase, node.phase_span), [*coordinates])


def _axis(p: ast.Coordinate, node: ast.Pick, ctx: Context) -> Declared | None:
    """The param axis that a coordinate names, or None for a family's own slot, a snapshot or a fixed param."""
    return next((axis for param in _params(p, node, ctx) if (axis := axes.axis_of(param)) is not None), None)


def _params(p: ast.Coordinate, node: ast.Pick, ctx: Context) -> list[Declared]:
    """The params of a coordinate's name, here and in the file of what is picked from."""
    root: ast.Expr = node.base
    while isinstance(root, ast.Pick | ast.Attr | ast.Version):
        root = root.base
    modules: list[Module] = [ctx.module]
    if isinstance(root, ast.Name):
        thing = ctx.module.scope.get(root.name)
        if isinstance(thing, Declared):
            modules.append(thing.module)
        elif isinstance(thing, Module):
            modules.append(thing)
    named = [module.scope.get(p.name) for module in modules]
    return [t for t in named if isinstance(t, Declared) and t.kind == "param" and t.node.params is None]


def _points(p: ast.Coordinate, axis: Declared, ctx: Context) -> list[int]:
    labels = axes.labels(axis, ctx)
    if isinstance(p.value, ast.All):
        return list(range(len(labels)))
    value = _wanted(p.value, labels, ctx)
    wanted = value.items if isinstance(value, ListValue) else [value]
    return [position(v, labels, p.value.span, axis.name) for v in wanted]


def _wanted(p: ast.Expr, labels: Sequence[Label], ctx: Context) -> Value:
    """A pick's value; a name that is how one of the points is shown means that point."""
    if isinstance(p, ast.Name) and p.name in labels and p.name not in ctx.names:
        return ir.Const(p.name, span=p.span)
    return ctx.eval(p, "any")


def position(value: Value, labels: Sequence[Label], span: Span, name: str) -> int:
    """Which of `labels` a picked value means: an equal label, else (where labels are not numbers) an index.

    Raises
    ------
    PlanError
        KD0402 where there is none such.
    """
    wanted: Any = (
        value.value if isinstance(value, ir.Const) else value.classes.label if isinstance(value, ClassesValue) else None
    )
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in labels)
    for i, label in enumerate(labels):
        if wanted is not None and label == wanted and type(label) is not bool:
            return i
    if not numeric and isinstance(wanted, int) and 0 <= wanted < len(labels):
        return wanted
    shown = [str(v) if v is not None else str(i) for i, v in enumerate(labels)]
    near = nearest(str(wanted if wanted is not None else span.text), shown) if not numeric else None
    raise error("KD0402", span, text=span.text, name=name, known=listing(shown), nearest=near)


def _positions(node: ast.Pick, rest: list[ast.Expr], ctx: Context, want: str) -> Value:
    base = ctx.eval(node.base, "network" if want == "signal" else want)
    rest = [p for p in rest if not (isinstance(p, ast.Coordinate) and _is_fixed(p, base, node, ctx))]
    return _choose(base, rest, node, ctx) if rest else base


def _is_fixed(p: ast.Coordinate, base: Value, node: ast.Pick, ctx: Context) -> bool:
    """Whether a coordinate names a param of one value, which is picked from as an axis of that value is.

    Raises
    ------
    PlanError
        KD0415 for another value than the param's.
    """
    params = _params(p, node, ctx)
    if not params or p.name in SNAPSHOT_AXES or p.name in _indices(base):
        return False
    if isinstance(p.value, ast.All):
        return True
    known = _shown(params[0], p.span, ctx)
    value = _wanted(p.value, [known], ctx)
    for v in value.items if isinstance(value, ListValue) else [value]:
        try:
            position(v, [known], p.value.span, p.name)
        except PlanError:
            raise error("KD0415", p.span, text=p.value.span.text, name=p.name, value=known) from None
    return True


def _indices(base: Value) -> set[str]:
    """The names of a family's own indices."""
    if isinstance(base, Several | Routing):
        return {name for item in base.items for name in _indices(item)}
    if isinstance(base, Family):
        return {s.name for s in base.declared.slots}
    return {BRANCH} if is_branches(base) else set()


def _shown(param: Declared, span: Span, ctx: Context) -> Label:
    """How a param's only value is shown: a number or string as itself, a choice from a table as it is written."""
    given = axes.given(param)
    if isinstance(given.node, ast.Name) and given.node.name not in given.module.scope:
        return given.node.name
    return axes.label(declared_value(param, span, ctx, "any"), 0)


def _choose(base: Value, rest: list[ast.Expr], node: ast.Pick, ctx: Context) -> Value:
    if isinstance(base, Several):
        if rest and (_is_snapshot(rest[0]) or all(isinstance(b, Family) or is_branches(b) for b in base.items)):
            chosen = [_choose(b, rest, node, ctx) for b in base.items]
            return Several([v for f in chosen for v in (f.items if isinstance(f, Several) else [f])], node.span)
        return _item(base.items, rest, node, ctx)
    if isinstance(base, Routing):
        return replace(base, items=[_choose(b, rest, node, ctx) for b in base.items], span=node.span)
    if isinstance(base, Family):
        return _members(base, rest, node, ctx)
    if isinstance(base, ListValue):
        return _item(base.items, rest, node, ctx)
    if isinstance(base, VerticalsValue):
        labels = [p.label if p.label is not None else i for i, p in enumerate(base.parts)]
        return _item([ClassesValue(p, base.data, node.span) for p in base.parts], rest, node, ctx, labels)
    if isinstance(base, NetValue) and len(rest) == 1:
        return _of_network(base, rest[0], node, ctx)
    if isinstance(base, Applied) and not base.since and len(rest) == 1:
        key = ctx.eval(rest[0], "any")
        if isinstance(key, ir.Const):
            return replace(base, path=(*base.path, str(key.value)), span=node.span)
    if isinstance(base, DataValue) and len(rest) == 1:
        part = ctx.eval(rest[0], "any")
        if isinstance(part, ClassesValue):
            return DataValue(base.data, base.split, part.classes, base.unlabelled, node.span)
        if isinstance(part, ListValue | ir.Const) and base.data.classes:
            class_numbers(part, base.data, rest[0].span)
            named = f"`verticals part of {base.data.name} {{ some = {rest[0].span.text}  disjoint = false }}`"
            help = f"Name the classes, such as {named}, and write `{node.base.span.text}[part[some]]`."
            raise error("KD0406", node.span, what="Data", help=help)
    raise error("KD0406", node.span, what=describe(base))


def _is_snapshot(p: ast.Expr) -> bool:
    return (isinstance(p, ast.Name) and p.name in ir.SNAPSHOTS) or (
        isinstance(p, ast.Coordinate) and p.name in SNAPSHOT_AXES
    )


def _of_network(base: NetValue, p: ast.Expr, node: ast.Pick, ctx: Context) -> Value:
    """A snapshot of a version, or a key of a tap that is a dict or a list."""
    if _is_snapshot(p):
        version = base.version or base.instance.as_declared
        if version is None or version.phase is None:
            raise error("KD0407", p.span, text=p.span.text, name=base.instance.declared.name)
        if isinstance(p, ast.Name):
            snapshot = ir.Version(version.network, version.phase, p.name, span=node.span)
            return replace(base, version=snapshot, span=node.span)
        assert isinstance(p, ast.Coordinate)
        if isinstance(p.value, ast.All):
            return Several([_at(base, version, p, n, node) for n in _kept(version, p, ctx)], node.span)
        value = ctx.eval(p.value, "any")
        numbers = [_whole(v, p) for v in (value.items if isinstance(value, ListValue | Several) else [value])]
        nets = [_at(base, version, p, n, node) for n in numbers]
        return Several([*nets], node.span) if isinstance(value, ListValue | Several) else nets[0]
    if is_branches(base):
        return pick_branch(base, p, node, ctx)
    key = ctx.eval(p, "any")
    if isinstance(key, ir.Const) and base.path:
        return replace(base, path=(*base.path, str(key.value)), span=node.span)
    name = base.instance.declared.name
    read = isinstance(key, ir.Const) and isinstance(key.value, str) and f"Write `{node.base.span.text}.{key.value}`."
    raise error("KD0406", node.span, what=f"`{name}`, which is one network,", help=read or _SNAPSHOTS_HELP)


def _whole(value: Value, p: ast.Coordinate) -> int:
    if isinstance(value, ir.Const) and isinstance(value.value, int):
        return value.value
    raise error("KD0244", p.value.span, what=f"`{p.name}`", wants="an integer", found=describe(value))


def _at(base: NetValue, version: ir.Version, p: ast.Coordinate, number: int, node: ast.Pick) -> NetValue:
    """A network after an epoch or a cycle, which is a coordinate of it."""
    at = ir.Version(version.network, version.phase, f"{p.name}={number}", span=node.span)
    return replace(base, version=at, span=node.span, coordinates={**base.coordinates, p.name: number})


def _kept(version: ir.Version, p: ast.Coordinate, ctx: Context) -> list[int]:
    """The epochs, or cycles, after which the version's phase keeps snapshots.

    Raises
    ------
    PlanError
        KD0309 where it keeps none.
    """
    plan = ctx.session.plan
    phase = plan.phases.get(str(version.phase)) or next(
        (i.phase for i in ctx.phases.values() if i.name == version.phase), None
    )
    slot = slot_in(plan, phase, version) if phase is not None else 0
    names = kept(phase, slot) if phase is not None else set()
    numbers = sorted(int(n.partition("=")[2]) for n in names if n.startswith(f"{p.name}="))
    if not numbers:
        raise error("KD0309", p.span, phase=version.phase, snapshot=f"{p.name} = *", name=version.network,
                    help=snapshot_help(f"{p.name}=1", phase, slot))  # fmt: skip
    return numbers


def _item(
    items: list[Value], rest: list[ast.Expr], node: ast.Pick, ctx: Context, labels: Sequence[Label] | None = None
) -> Value:
    if len(rest) != 1:
        raise error("KD0406", node.span, what="a list")
    if isinstance(rest[0], ast.All):
        return Several(items, node.span)
    known = labels if labels is not None else list(range(len(items)))
    value = _wanted(rest[0], known, ctx)
    if isinstance(value, ListValue):
        return Several([items[position(v, known, rest[0].span, node.base.span.text)] for v in value.items], node.span)
    return items[position(value, known, rest[0].span, node.base.span.text)]


def _members(base: Family, rest: list[ast.Expr], node: ast.Pick, ctx: Context) -> Value:
    slots = base.declared.slots
    if len(rest) > len(slots):
        raise _wrong_count(rest[len(slots)].span, base.declared, len(rest))
    named = {p.name: p.value for p in rest if isinstance(p, ast.Coordinate)}
    for name in named:
        if name not in [s.name for s in slots]:
            span = next(p.span for p in rest if isinstance(p, ast.Coordinate) and p.name == name)
            has = suggestion(name, [s.name for s in slots])
            raise error("KD0409", span, name=name, family=base.declared.name, help=has)
    ordered = iter([p for p in rest if not isinstance(p, ast.Coordinate)])
    chosen = [named[s.name] if s.name in named else next(ordered, ast.All(node.span)) for s in slots]
    if len(rest) < len(slots) and not any(isinstance(p, ast.All) for p in rest) and len(rest) != len(slots):
        raise _wrong_count(node.span, base.declared, len(rest))
    many = any(isinstance(p, ast.All | ast.Range) for p in chosen)
    picks = [_part_of(p, ctx) or p for p in chosen]
    members: list[Value] = []
    for bound in bindings(base, picks, 0, {}, ctx):
        members.append(member(base, bound, node.span, ctx))
    routed = [p for p in picks if isinstance(p, PartOf)]
    if routed and len(members) != len(routed[0].verticals.parts):
        raise error("KD0286", node.span, name=base.declared.name, text=routed[0].span.text)
    if routed:
        return Routing(routed[0], members, node.span)
    return Several(members, node.span) if many or len(members) != 1 else members[0]


def _part_of(p: ast.Expr, ctx: Context) -> PartOf | None:
    """The choice among verticals that an index is, if it is one."""
    value = ctx.eval(p, "any") if isinstance(p, ast.Call) else None
    return value if isinstance(value, PartOf) else None


def _of_parts(part_of: PartOf, items: list[tuple[Label, Value]], name: str) -> list[int]:
    """Which member of a family each part of the verticals has.

    Raises
    ------
    PlanError
        KD0286 where the family is not over these verticals.
    """
    positions = {
        (v.data.name, tuple(v.classes.ids)): i for i, (_, v) in enumerate(items) if isinstance(v, ClassesValue)
    }
    wanted = [(part_of.verticals.data.name, tuple(p.ids)) for p in part_of.verticals.parts]
    if len(items) != len(wanted) or any(w not in positions for w in wanted):
        raise error("KD0286", part_of.span, name=name, text=part_of.span.text)
    return [positions[w] for w in wanted]


def _wrong_count(span: Span, family: Declared, given: int) -> PlanError:
    slots = [s.name for s in family.slots]
    example = f"{family.name}[{', '.join(f'{s} = …' for s in slots)}]"
    count = counted(len(slots), "index", "indices")
    return error("KD0408", span, name=family.name, count=count, found=given, example=example)


def bindings(
    base: Family, chosen: Sequence[ast.Expr | PartOf], at: int, bound: Bound, ctx: Context, times: int = 1
) -> list[Bound]:
    """Every choice of slot values that the picks allow: slot -> (label, value); `times` are those of earlier slots."""
    slots = base.declared.slots
    if at == len(slots):
        return [bound]
    slot = slots[at]
    items = slot_items(base.declared, slot, {n: v for n, (_, v) in bound.items()}, ctx)
    labels = [label for label, _ in items]
    p = chosen[at]
    if isinstance(p, ast.All):
        indices = list(range(len(items)))
    elif isinstance(p, PartOf):
        indices = _of_parts(p, items, base.declared.name)
    else:
        value = _wanted(p, labels, ctx)
        wanted = iterate(value, p.span) if isinstance(value, ListValue | Several | VerticalsValue) else [value]
        indices = [position(v, labels, p.span, base.declared.name) for v in wanted]
    ctx.session.budget.points(times * len(indices), p.span if isinstance(p, ast.Expr) else slot.span)
    inner = [{**bound, slot.name: items[i]} for i in indices]
    return [b for one in inner for b in bindings(base, chosen, at + 1, one, ctx, times * len(indices))]
