"""Modules to the core plan: every phase that the given file declares, what these read, its measures and exports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from kdplan.constructs.table import CONSTRUCTS, LADDERS, NAMED_AS_NETWORKS, TRAINS
from kdplan.data import catalog
from kdplan.data.look import of_channels
from kdplan.data.of_plan import view_of_data
from kdplan.data.select import split_sizes
from kdplan.data.transforms import check_boxes, fixes_size, out_shape, transform
from kdplan.diagnostics.report import PlanError, Reporter
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.limits import DEFAULT, Limits
from kdplan.ir.plan import Data, Network, Phase, Plan, View
from kdplan.ir.user_code import CodeRefused
from kdplan.passes.load import Declared, Module
from kdplan.resolve import axes
from kdplan.resolve.answers import Answers
from kdplan.resolve.budget import Budget
from kdplan.resolve.choices import fresh
from kdplan.resolve.context import Context, Session, check_sound, expand
from kdplan.resolve.evaluate import RULES
from kdplan.resolve.kinds.claim import claim
from kdplan.resolve.kinds.construct import construct_instance
from kdplan.resolve.kinds.network import network_instance
from kdplan.resolve.kinds.phase import phase_instance
from kdplan.resolve.kinds.results import exports, measure
from kdplan.resolve.picks import bindings
from kdplan.resolve.unread import check_given, check_names
from kdplan.resolve.values import Family
from kdplan.syntax import ast

T = TypeVar("T")
FindCuts = Callable[[Network, Sequence[int]], list[Cut]]
FindLayers = Callable[[Network, Sequence[int]], list[Layer]]


def no_torch(network: Network, shape: Sequence[int]) -> NoReturn:
    """For whoever resolves plans in which nothing is found from the networks' shapes."""
    raise NotImplementedError("stages and layers are found with torch, which was not given")


def resolve(
    module: Module,
    root: Path | None,
    reporter: Reporter,
    cuts: FindCuts = no_torch,
    layers: FindLayers = no_torch,
    limits: Limits = DEFAULT,
) -> Plan:
    """The core plan of a loaded file.

    Each declaration that fails is reported; the others are resolved all the same, so that one run reports
    several mistakes.

    Parameters
    ----------
    module : Module
    root : Path or None
        Where data sets are looked for.
    reporter : Reporter
    cuts : function
        Where a network can be cut in two, for images of a shape (`kdplan.graph.cuts.cuts_of`).
    layers : function
        The values of a network through which everything passes, likewise (`kdplan.graph.cuts.layers_of`).
    limits : Limits
        How much evaluation may make and use; what goes beyond is reported.

    Examples
    --------
    >>> from kdplan.diagnostics.span import Source
    >>> from kdplan.passes.load import load
    >>> text = '''
    ... recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
    ... data digits = digits
    ... student small = digits_net()
    ... phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
    ... '''
    >>> reporter = Reporter()
    >>> plan = resolve(load(Source("a.kd", text), Path("."), reporter), None, reporter)
    >>> list(plan.phases), reporter.diagnostics
    (['alone'], [])
    """
    all_tables = fresh()

    modules = list(module.every())
    budget = Budget(limits, sum(len(m.source.text) for m in modules), sum(_written(m.tree.items) for m in modules))

    def outside(find: Callable[[Network, Sequence[int]], T]) -> Callable[[Network, Sequence[int]], T]:
        def with_torch(network: Network, shape: Sequence[int]) -> T:
            with budget.paused():
                return find(network, shape)

        return with_torch

    describe = _describing(budget, root, all_tables["superclasses"])
    session = Session(reporter, root, describe, all_tables, RULES, outside(cuts), outside(layers), budget=budget)
    for declared in module.own:
        ctx = Context(session, declared.module)
        try:
            _declaration(declared, ctx)
        except PlanError as e:
            reporter.add(e.diagnostics)
        except RecursionError:
            reporter.add(budget.exceed("KD1106", declared.node.head_span).diagnostics)
        if budget.failed is not None:
            break
    if budget.failed is not None:
        reporter.add([budget.failed])
        return session.plan
    check_names(module, all_tables, reporter)
    check_given(module, session.read, all_tables, reporter)
    _in_order(session)
    return session.plan


def _written(items: list[ast.Item]) -> int:
    """How many declarations are written."""
    inner = [d for d in items if isinstance(d, ast.Declaration)]
    return len(inner) + sum(_written(d.items or []) for d in inner)


def _declaration(declared: Declared, ctx: Context) -> None:
    check_sound(declared)
    if declared.kind in TRAINS | NAMED_AS_NETWORKS:
        for _ in expand(ctx, lambda inner: _members(declared, inner), axes.size):
            pass
    elif declared.kind == "measure":
        ctx.session.plan.measures[declared.name] = measure(declared, ctx)
    elif declared.kind == "claim":
        ctx.session.plan.claims[declared.name] = claim(declared, ctx)
    elif declared.kind == "export":
        ctx.session.plan.exports.update({e.name: e for e in exports(declared, ctx)})
    elif declared.kind == "def":
        return  # has meaning only where it is read
    elif declared.kind == "param":
        _param(declared, ctx)
    else:
        span = declared.node.name_span or declared.node.span
        for _ in expand(ctx, lambda inner: inner.eval(ast.Name(span, declared.name), "any"), axes.size):
            pass


def _param(declared: Declared, ctx: Context) -> None:
    if axes.is_axis(declared):
        axes.items(declared, ctx)


def _members(declared: Declared, ctx: Context) -> None:
    """Every member of a declaration at one point of the param axes."""
    span = declared.node.name_span or declared.node.span
    construct = CONSTRUCTS.get(declared.kind)
    if construct is not None and construct.index is not None:  # out of range it has no member to report it
        Answers(declared.node, ctx).setting(construct.index.count)
    every: list[ast.Expr] = [ast.All(span) for _ in declared.slots]
    for bound in bindings(Family(declared, None, span), every, 0, {}, ctx):
        if declared.kind == "phase":
            phase_instance(declared, bound, None, span, ctx)
        elif declared.kind in LADDERS:
            construct_instance(declared, bound, span, ctx)
        else:
            network_instance(declared, bound, span, ctx)


def _describing(
    budget: Budget, root: Path | None, superclasses: dict[str, dict[str, list[int]]]
) -> Callable[[Data, Span], None]:
    """What fills in a data set. Each source with its arguments is looked at once: a sweep may have thousands of data
    sets that read the same files.
    """
    described: dict[str, catalog.DataInfo] = {}

    def describe(data: Data, span: Span) -> None:
        with budget.paused():
            key = repr((data.source.name, sorted(data.source.arguments.items())))
            if key not in described:
                described[key] = _info(data, span, root)
            _describe(data, described[key], span, superclasses)

    return describe


def _info(data: Data, span: Span, root: Path | None) -> catalog.DataInfo:
    try:
        return catalog.describe(data.source.name, dict(data.source.arguments), root, span=span)
    except CodeRefused as refused:
        raise refused.about(f"`{data.name}`, with all that reads it,", span) from None


def _describe(data: Data, info: catalog.DataInfo, span: Span, superclasses: dict[str, dict[str, list[int]]]) -> None:
    data.classes = list(info.classes)
    data.task = info.task
    data.objects = info.objects
    data.whole = info.whole
    data.sizes = dict(info.splits)
    data.fingerprint = info.fingerprint
    chain = [transform(t.name, (), t.arguments, t.span) for t in data.augment]
    assert info.opened is not None
    if info.task == "detection":
        check_boxes(data.name, chain)
    if data.verify:
        catalog.verify(data.name, info.opened, span=span)
    shape = catalog.sample_shape(info.opened, chain)
    if shape is not None or fixes_size(chain):
        data.shape = list(out_shape(shape, chain, True, span))
    if data.split is not None:
        rule = view_of_data(data, View(data.name, "train")).rule
        assert rule is not None
        data.sizes = split_sizes(data.name, info.opened, rule, data.split.span or span)
    if data.normalize is None and info.mean is not None and info.std is not None:
        mean, std = of_channels((info.mean, info.std), data.shape[0] if data.shape else len(info.mean))
        data.normalize = (list(mean), list(std))
    if info.superclasses:
        order = {name: i for i, name in enumerate(info.classes)}
        data.superclasses = {g: [order[c] for c in members] for g, members in info.superclasses.items()}
        superclasses[data.name] = data.superclasses


def _in_order(session: Session) -> None:
    """Phases in the order of the text, which is how they are shown; what they read comes from the versions."""
    plan = session.plan

    def location(phase: Phase) -> tuple[str, int]:
        span = session.construct_spans.get(phase.name) or phase.span
        return (span.file, span.start) if span else ("", 0)

    plan.phases = dict(sorted(plan.phases.items(), key=lambda item: location(item[1])))
