"""`measure` and `export`: what is read off the trained networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast, get_args

from kdplan.diagnostics.report import Gather, error, suggestion
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCH
from kdplan.ir.outputs import canonical
from kdplan.ir.plan import Band, Export, Item, Measure, Plan, Plot, Row, Target, View
from kdplan.ir.spec import SettingSpec
from kdplan.passes.load import Declared
from kdplan.passes.metric_checks import check_transfer
from kdplan.passes.open_set import check_protocols
from kdplan.resolve import axes, setting_values
from kdplan.resolve.arguments import no_such_choice, too_many, unknown_parameter
from kdplan.resolve.context import Context, NeedAxis, expand
from kdplan.resolve.derive.named import part
from kdplan.resolve.expected import no_network
from kdplan.resolve.kinds.by_verticals import Found, divided, verticals_among
from kdplan.resolve.kinds.data import view_of
from kdplan.resolve.setting_values import item as as_item
from kdplan.resolve.signals import family_error, weights
from kdplan.resolve.spread import spread
from kdplan.resolve.values import DataValue, Family, ListValue, NetValue, Several, Value, describe
from kdplan.syntax import ast

T = TypeVar("T")


@dataclass
class Point:
    """What a table is on, at one point of the axes that its data and verticals read."""

    views: list[View]
    verticals: Found | None
    coordinates: dict[str, Any]


def measure(thing: Declared, ctx: Context) -> Measure:
    """A measure, with one row for every version that its `of` selects at every point of the axes that these read."""
    node = thing.node
    of, on, by, over = (node.clause(w) for w in ("of", "on", "by", "over"))
    assert of is not None and on is not None
    gather = Gather()
    named = [e for clause in (by, over) if clause for e in clause.exprs]
    with gather:
        check_once(named, thing.name)
    named = [] if gather.failed else named
    metrics: list[Item] = []
    with gather:
        metrics = measure_metrics(node, ctx, lambda inner, make: list(expand(inner, make, axes.size)))
    first: Point | None = None
    with gather:
        first = next(expand(ctx, lambda inner: point(on, named, inner), axes.size))
    pairs: list[tuple[Row, Point]] = []
    for e in of.exprs:
        with gather:
            for several in expand(ctx, lambda inner, e=e: placed(e, on, named, inner, first), axes.size):  # type: ignore[misc]
                pairs += several
    pairs = _distinct(pairs)
    rows = [row for row, _ in pairs]
    by_axes, over_axes = ([e.span.text for e in clause.exprs] if clause else [] for clause in (by, over))
    averaged = _averaged(by_axes, over_axes)
    verticals = first.verticals if first is not None else None
    for e in named:
        if verticals is None or e.span.text != verticals[0].span.text:
            with gather:
                check_axis(e, thing, rows, ctx)
    if verticals is not None and not gather.failed:
        with gather:
            rows = [part for several, at in _by_point(pairs) for part in _divided(several, at, ctx.session.plan)]
    drawn: list[Plot] = []
    with gather:
        drawn = [_plot(p, rows, metrics, averaged, on, ctx) for p in plots(node)]
    baseline: list[Row] = []
    for item in node.items or []:
        if isinstance(item, ast.Setting):
            with gather:
                if verticals is not None:
                    raise error("KD0870", item.span, name=thing.name)
                baseline = rows_of(item.value, on, first, ctx)
    gather.raise_if_failed()
    assert first is not None
    result = Measure(
        thing.name,
        rows,
        first.views,
        metrics,
        by_axes,
        averaged,
        drawn,
        verticals[0].span.text if verticals else "",
        verticals[1].parts if verticals else [],
        baseline,
        span=node.head_span,
    )
    session = ctx.session
    with gather:
        check_protocols(result.every_view(), metrics, session.plan.data, session.root, session.reporter)
        check_transfer(result.every_view(), metrics, session.plan.data, session.root)
    gather.raise_if_failed()
    return result


def point(on: ast.Clause, named: list[ast.Expr], ctx: Context) -> Point:
    """What a table is on at the chosen coordinates."""
    inner = ctx.child(reads=set())
    views = [_measured_view(v, on, ctx) for e in on.exprs for v in spread([e], inner, "any")]
    verticals = verticals_among(named, inner)
    ctx.reads.update(inner.reads)
    return Point(views, verticals, axes.coordinates(inner))


def placed(
    e: ast.Expr, on: ast.Clause, named: list[ast.Expr], ctx: Context, first: Point | None
) -> list[tuple[Row, Point]]:
    """The rows of an expression, each with what it is on: where data read an axis, those of the row's own value."""
    if first is None:  # which was reported
        _rows(e, ctx)
        return []
    at = point(on, named, ctx)
    rows = [row for row in _rows(e, ctx) if all(row.coordinates[axis] == v for axis, v in at.coordinates.items())]
    return [(replace(row, views=at.views if at.coordinates else []), at) for row in rows]


def rows_of(e: ast.Expr, on: ast.Clause, first: Point | None, ctx: Context) -> list[Row]:
    """The rows of an expression at every point of the axes that it reads, each once; data are not divided."""
    rows: list[Row] = []
    for several in expand(ctx, lambda inner: placed(e, on, [], inner, first), axes.size):
        rows += [row for row, _ in several if row not in rows]
    return rows


def _distinct(pairs: list[tuple[Row, Point]]) -> list[tuple[Row, Point]]:
    """Each pair once. Only rows of one label and one point are compared: a sweep has thousands."""
    groups: dict[tuple[str, str], list[tuple[Row, Point]]] = {}
    distinct = []
    for pair in pairs:
        row, _ = pair
        alike = groups.setdefault((row.label, repr(sorted(row.coordinates.items()))), [])
        if pair not in alike:
            alike.append(pair)
            distinct.append(pair)
    return distinct


def _by_point(pairs: list[tuple[Row, Point]]) -> Iterable[tuple[list[Row], Point]]:
    groups: dict[str, tuple[list[Row], Point]] = {}
    for row, at in pairs:
        groups.setdefault(repr(at.coordinates), ([], at))[0].append(row)
    return groups.values()


def _divided(rows: list[Row], at: Point, plan: Plan) -> list[Row]:
    return divided(rows, *at.verticals, at.views, plan) if at.verticals is not None else []


def check_once(named: list[ast.Expr], measure: str) -> None:
    """KD0412 for an axis that stands twice in `by` and `over`, KD0409 for axes in brackets."""
    seen: set[str] = set()
    for e in named:
        if isinstance(e, ast.List):
            plain = ", ".join(i.span.text for i in e.items)
            raise error("KD0409", e.span, family=measure, name=e.span.text, help=f"Write `{plain}`.")
        if e.span.text in seen:
            raise error("KD0412", e.span, name=e.span.text, help="Name it once, after `by` or after `over`.")
        seen.add(e.span.text)


def _averaged(by: list[str], over: list[str]) -> list[str]:
    """The axes of which a table shows the mean: those after `over`, and seeds unless a line is one seed's."""
    return over if "seed" in by or "seed" in over else ["seed", *over]


def check_axis(e: ast.Expr, thing: Declared, rows: list[Row], ctx: Context) -> None:
    """KD0409 for what is no axis of the measured versions, and no param axis."""
    text = e.span.text
    known = dict.fromkeys(name for row in rows for name in row.coordinates)
    declared = ctx.module.scope.get(text)
    usable = isinstance(declared, Declared) and axes.is_axis(declared)
    if text not in known and not usable and text != "seed" and rows and not ctx.module.knows_of(text):
        has = suggestion(text, known) or "Leave it out: no axis is swept there."
        raise error("KD0409", e.span, family=thing.name, name=text, help=has)


def _rows(e: ast.Expr, ctx: Context) -> list[Row]:
    value = ctx.eval(e, "network")
    values = value.items if isinstance(value, Several | ListValue) else [value]
    rows = []
    for v in values:
        target = _target(v, e, ctx)
        net: Any = v
        coords = {**axes.coordinates(ctx), **net.instance.coordinates, **net.coordinates}
        rows.append(Row(_label(net), target, coords))
    return rows


def _label(net: NetValue) -> str:
    """`small@kd`, without coordinates: those stand beside it."""
    version = net.version or net.instance.as_declared
    name = net.instance.declared.name
    text = name
    if net.version is not None and version is not None:
        text = net.left_by or (name if version.phase is not None else f"{name}@init")
    in_coordinates = version is not None and version.snapshot.partition("=")[0] in net.coordinates
    if version is not None and version.snapshot != "last" and not in_coordinates:
        text += f"[{version.snapshot}]"
    indexed = len(net.path) > 1 and net.path[0] == BRANCH and BRANCH in net.coordinates
    return ".".join([text, *(net.path[:1] + net.path[2:] if indexed else net.path)])


def _target(v: Value, e: ast.Expr, ctx: Context) -> Target:
    if isinstance(v, Family):
        raise family_error(v)
    if not isinstance(v, NetValue):
        raise no_network(v, e.span, ctx.module)
    v = part(v, ctx)
    version = weights(v, ctx)
    assert isinstance(version, ir.Version)
    return Target([version], canonical(".".join(v.path)), span=e.span)


def _measured_view(v: Value, on: ast.Clause, ctx: Context) -> View:
    if not isinstance(v, DataValue):
        raise error("KD0244", v.span or on.word_span, what="`on`", wants="data", found=describe(v))
    if v.split is None:
        raise error("KD0703", v.span, name=v.span.text, example=f"{v.span.text}.test")
    if v.unlabelled:
        raise error("KD0702", v.span, name=v.span.text, help=f"Write `{v.span.text.removesuffix('.unlabelled')}`.")
    return view_of(v)


def measure_metrics(
    node: ast.Declaration,
    ctx: Context,
    points: Callable[[Context, Callable[[Context], Item]], list[Item]] = lambda ctx, make: [make(ctx)],
) -> list[Item]:
    """The metrics that a measure's body lists, each once; `points` makes one at every point of the axes that it reads.

    Raises
    ------
    PlanError
        KD0257 where it lists none.
    """
    nodes = [n for n in node.listing or [] if n not in plots(node)]
    if not nodes:
        raise error("KD0257", node.head_span)
    metrics: list[Item] = []
    for n in nodes:
        for metric in points(ctx, lambda inner, n=n: as_item("metric", inner.eval(n, "metric"), n, "metric", inner)):  # type: ignore[misc]
            metrics += [metric] * (metric not in metrics)
    alike = [m for m in metrics if any(m.written == other.written and m != other for other in metrics)]
    for metric in alike:  # where a function of the plan gives one text two meanings
        metric.written = None
    return metrics


# ---- plots


def plots(node: ast.Declaration) -> list[ast.Call]:
    """`plot(…)` among the metrics: no number, but a plot of numbers."""
    return [
        n for n in node.listing or [] if isinstance(n, ast.Call) and isinstance(n.function, ast.Name)
        and n.function.name == "plot"
    ]  # fmt: skip


def _plot(
    node: ast.Call, rows: list[Row], metrics: list[Item], averaged: list[str], on: ast.Clause, ctx: Context
) -> Plot:
    """A plot of one of the measure's metrics over one of its axes.

    Raises
    ------
    PlanError
        KD0236, KD0230, KD0226, KD0237 for its arguments; KD0409 for what is no axis of the rows, KD0412 for one that
        the measure averages over; KD0245 for a metric
        that the measure does not list.
    """
    names = ["x", "y", "baseline", "band"]
    if node.args:
        raise too_many(node.args[0].span, "plot", names)
    given: dict[str, ast.Expr] = {}
    for k in node.keywords:
        if k.name not in names or k.name in given:
            raise unknown_parameter(k, "`plot`", names, given=k.name in given)
        given[k.name] = k.value
    for wanted in ("x", "y"):
        if wanted not in given:
            raise error("KD0237", node.span, function="plot", name=wanted)
    axis = given["x"].span.text
    known = dict.fromkeys(name for row in rows for name in row.coordinates)
    if axis not in known and rows:  # without rows, why there are none has been reported
        has = suggestion(axis, known) or "Leave it out: no axis is swept there."
        raise error("KD0409", given["x"].span, family="the measure", name=axis, help=has)
    if axis in averaged:
        raise error("KD0412", given["x"].span, name=axis, help=f"Add `by {axis}` to the measure.")
    y = as_item("metric", _unswept(given["y"], lambda: ctx.eval(given["y"], "metric")), given["y"], "y", ctx)
    if y not in metrics:
        raise no_such_choice("y", given["y"], [m.span.text for m in metrics if m.span])
    y = metrics[metrics.index(y)]  # written as the column is
    baseline: list[Row] = []
    if "baseline" in given:
        first = next(expand(ctx, lambda inner: point(on, [], inner), axes.size))
        baseline = rows_of(given["baseline"], on, first, ctx)
    band = cast(Band, setting_values.read(_BAND, given["band"], ctx)) if "band" in given else "std"
    return Plot(axis, y, baseline, band, span=node.span)


_BAND = SettingSpec("band", "choice", "", choices=get_args(Band))


def _unswept(node: ast.Expr, make: Callable[[], T]) -> T:
    """A plot is of one metric, which does not follow an axis.

    Raises
    ------
    PlanError
        KD0410 where it reads one.
    """
    try:
        return make()
    except NeedAxis as need:
        one = f"Give `{need.axis.name}` one value, and set another one in a run of its own."
        raise error("KD0410", node.span, name=need.axis.name, help=one if axes.is_set(need.axis) else None) from None


def exports(thing: Declared, ctx: Context) -> list[Export]:
    """An export: one network, or one for each value of the params that `--set` made axes.

    Raises
    ------
    PlanError
        KD0404 where the expression means several.
    """
    clause = thing.node.clause("=")
    assert clause is not None
    e = clause.exprs[0]
    networks: dict[str, list[Row]] = {}
    for suffix, rows in expand(ctx, lambda inner: (_of_set(inner), _rows(e, inner)), axes.size):
        networks.setdefault(suffix, []).extend(rows)
    for members in networks.values():
        if len(members) != 1:
            picks = ", ".join(f"{n} = {v}" for n, v in members[0].coordinates.items()) if members else ""
            example = f"{members[0].label}[{picks}]" if members else ""
            raise error("KD0404", e.span, text=f"export {thing.name}", count=len(members), example=example)
    names = {suffix: f"{thing.name}{suffix if len(networks) > 1 else ''}" for suffix in networks}
    return [Export(names[s], rows[0].target, span=thing.node.head_span) for s, rows in networks.items()]


def _of_set(ctx: Context) -> str:
    """`[weight=0.5]`: the point on the axes that `--set` has made of params, which no author of an export knew of."""
    chosen = {axis.name: axes.labels(axis, ctx)[i] for axis, i in ctx.coords.items() if axes.is_set(axis)}
    return axes.suffix({}, chosen)
