"""Values to signals: taps of networks, fields of streams, step counters."""

from __future__ import annotations

from typing import cast

from kdplan.constructs.table import TRAINS
from kdplan.data.view import SPLIT_NAMES
from kdplan.diagnostics.report import error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCH, branches, split, tap_name
from kdplan.ir.outputs import canonical
from kdplan.ir.plan import ClassSet
from kdplan.resolve.context import Context
from kdplan.resolve.values import (
    SIGNALS,
    Applied,
    Builtin,
    ClassesValue,
    DataValue,
    Family,
    FunctionValue,
    ListValue,
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


def signal(value: Value, ctx: Context) -> ir.Expr:
    """A value where a signal is wanted.

    Raises
    ------
    PlanError
        KD0301 for a network that is fresh as declared, KD0401 for a family, KD0403 for a list, KD0246 for what is no
        signal at all.
    """
    if isinstance(value, SIGNALS):
        return value
    if isinstance(value, NetValue):
        if not value.path:
            raise error("KD0247", value.span, name=value.instance.declared.name)
        return tap(value, [default_inputs(value.span, ctx)], "", ".".join(value.path), value.span, ctx)
    if isinstance(value, Applied):
        return _applied(value, ctx)
    if isinstance(value, Family):
        raise family_error(value)
    if isinstance(value, Routing):
        part_of = value.part_of
        parts = ir.Const([list(p.ids) for p in part_of.verticals.parts], span=part_of.span)
        taps = [signal(v, ctx) for v in value.items]
        routed = ir.Call("route", [part_of.labels, *taps], {"parts": parts}, span=value.span)
        return ctx.session.budget.tree(routed, value.span)
    if isinstance(value, PartOf):
        raise error("KD0233", value.span, name=value.span.text.partition("(")[0])
    if isinstance(value, ListValue | Several):
        raise error("KD0403", value.span, name="x", text=value.span.text)
    call = f"Call it: `{value.span.text}(…)`." if isinstance(value, Builtin | FunctionValue | UserFunction) else None
    raise error("KD0246", value.span, what=describe(value), help=call)


def argument(value: Value, ctx: Context) -> ir.Expr:
    """A signal, or a list of signals and numbers, for a function of the user.

    Raises
    ------
    PlanError
        As `signal`.
    """
    if not isinstance(value, ListValue | Several):
        return signal(value, ctx)
    items = [argument(v, ctx) for v in value.items]
    if all(isinstance(i, ir.Const) for i in items):
        return ir.Const([cast(ir.Const, i).value for i in items], span=value.span)
    return ctx.session.budget.tree(ir.Op("list", items, span=value.span), value.span)


def _applied(value: Applied, ctx: Context) -> ir.Expr:
    """The tap of a call, with the call's number; a call that is evaluated again keeps it.

    A frozen network in eval mode draws nothing: its calls have no number.
    """
    net = value.net
    e = tap(net, value.inputs, ".".join(net.path), ".".join(value.path), value.span, ctx)
    e.since = value.since
    frozen = net.version is not None or ctx.phase is None or net.instance not in ctx.phase.trainable
    if ctx.phase is not None and not (frozen and net.instance.network.mode == "eval"):
        e.call = ctx.phase.calls.setdefault(value.call, len(ctx.phase.calls) + 1)
    return e


def family_error(value: Family) -> Exception:
    """KD0401: a family where one member is wanted."""
    name = value.declared.name
    slots = listing(s.name for s in value.declared.slots)
    return error("KD0401", value.span, name=name, slots=slots)


def tap(net: NetValue, inputs: list[ir.Expr], submodule: str, path: str, span: Span, ctx: Context) -> ir.Tap:
    """A tap of a network, or of its `submodule`, on `inputs`; `path` "" or "output" is the output.

    Of a network that is its logits: one name for one value. What a part gives is scores only where the plan says so.

    Raises
    ------
    PlanError
        KD0301 for a network that is fresh as declared, KD0401 for a branch without an index.
    """
    network = net.instance.network
    if branches(network) and not submodule:
        check_indexed(net, path, span)
    path = path if submodule else tap_name(network, path)
    read = ir.Tap(weights(net, ctx), inputs, "" if path == "output" else path, submodule, span=span)
    return ctx.session.budget.tree(read, span)


def trained_path(net: NetValue) -> str:
    """The tap that a measure inside a phase reads of a network in training; "" for the network's output."""
    path = ".".join(net.path)
    check_indexed(net, path, net.span)
    inside, rest = split(net.instance.network, path)
    rest = canonical(rest)
    return f"{inside}.{rest or 'logits'}" if inside else rest


def check_indexed(net: NetValue, path: str, span: Span) -> None:
    """KD0401 for `one.branch` without an index, which is several."""
    words = path.split(".")
    if branches(net.instance.network) and words[0] == BRANCH and not "".join(words[1:2]).isdecimal():
        raise error("KD0401", span, name=f"{net.instance.declared.name}.{BRANCH}", slots=BRANCH)


def weights(net: NetValue, ctx: Context) -> ir.Version | ir.InTraining:
    """Which weights a network value reads: a named version, those in training, or those that its declaration leaves."""
    instance = net.instance
    if net.version is not None:
        return net.version
    if ctx.phase is not None and instance in ctx.phase.trainable:
        return ir.InTraining(ctx.phase.trainable[instance], span=net.span)
    if instance.as_declared is None or instance.fresh:
        raise error("KD0301", net.span, name=instance.declared.name, help=versions_help(net, ctx))
    version = instance.as_declared
    return ir.Version(version.network, version.phase, version.snapshot, span=net.span)


def fixed_weights(net: NetValue, ctx: Context) -> ir.Version:
    """`weights`, where they must not be those that the phase around is training (KD0249)."""
    version = weights(net, ctx)
    if isinstance(version, ir.InTraining):
        name = net.instance.declared.name
        raise error("KD0249", net.span, wants=f"fixed weights, such as `{name}@init`", found=f"`{name}` in training")
    return version


def phases_that_train(name: str, ctx: Context) -> list[str]:
    """Names of the file's phases whose `of` names the network `name`."""
    return [d.name for d in ctx.module.after_at.values() if d.kind in TRAINS and name in names_in_of(d.node)]


def versions_help(net: NetValue, ctx: Context) -> str:
    """The versions of a network that could be meant, for a message."""
    name = net.instance.declared.name
    versions = [f"{name}@{p}" for p in [*net.instance.phases, *phases_that_train(name, ctx)]]
    if not versions:
        return f'Add a phase that trains it, load its `weights = "…"`, or write `{name}@init` for the fresh ones.'
    return f"Choose from the versions {listing([*dict.fromkeys(versions), f'{name}@init'])}."


def names_in_of(node: ast.Declaration) -> set[str]:
    """The names after a declaration's `of`."""
    clause = node.clause("of")
    names: set[str] = set()
    stack: list[object] = list(clause.exprs) if clause else []
    while stack:
        e = stack.pop()
        if isinstance(e, ast.Name):
            names.add(e.name)
        elif isinstance(e, ast.Attr | ast.Version | ast.Pick):
            stack.append(e.base)
        elif isinstance(e, ast.Call):
            stack.extend(e.args)
    return names


def labels_for(verticals: VerticalsValue, node: ast.Call, ctx: Context) -> ir.Expr:
    """The labels that verticals are applied to.

    Raises
    ------
    PlanError
        KD0236, KD0237 for another number of arguments, KD0284 for what is no labels, KD0285 for other data.
    """
    if len(node.args) + len(node.keywords) != 1 or node.keywords:
        if not node.args:
            raise error("KD0237", node.span, function=node.function.span.text, name="labels")
        raise error("KD0236", node.span, function=node.function.span.text, count="1 argument", help=None)
    labels = signal(ctx.eval(node.args[0]), ctx)
    assert ctx.phase is not None or not isinstance(labels, ir.StreamField)
    if not isinstance(labels, ir.StreamField) or labels.field != "labels" or ctx.phase is None:
        raise error("KD0284", node.args[0].span, name=node.function.span.text)
    data = ctx.phase.streams[labels.stream][1].data
    if data.classes != verticals.data.classes:
        raise error("KD0285", node.span, name=node.function.span.text, own=verticals.data.name, other=data.name)
    return labels


# ---- streams


def stream_or_counter(name: str, span: Span, ctx: Context) -> ir.Expr:
    """`labels`, `inputs` … of the phase's only stream; `epoch`, `step`, `progress`."""
    if ctx.phase is None:
        raise error("KD0248", span, name=name)
    if name in ir.STEP_COUNTERS:
        return ir.StepCounter(name, span=span)
    streams = ctx.phase.streams
    if len(streams) > 1:
        names = [label for label, _ in streams]
        raise error("KD0701", span, name=name, streams=listing(names), example=f"{names[0]}.{name}")
    return field(0, name, span, ctx)


def field(stream: int, name: str, span: Span, ctx: Context) -> ir.Expr:
    """A field of a stream of the phase: `inputs`, `labels`, `targets` …

    Raises
    ------
    PlanError
        KD0702 for labels of an unlabelled stream.
    """
    assert ctx.phase is not None
    label, view = ctx.phase.streams[stream]
    if name in ("labels", "targets") and view.unlabelled:
        raise error(
            "KD0702",
            span,
            name=label,
            help=f"Write a loss without labels, or `on {label.removesuffix('.unlabelled')}`.",
        )
    return ir.StreamField(stream, name, span=span)


def default_inputs(span: Span, ctx: Context) -> ir.Expr:
    """What `N.tap` applies N to."""
    if ctx.phase is None:
        raise error("KD0248", span, name=span.text)
    if len(ctx.phase.streams) > 1:
        names = [label for label, _ in ctx.phase.streams]
        network, dot, path = span.text.partition(".")
        raise error(
            "KD0701", span, name=span.text, streams=listing(names), example=f"{network}({names[0]}.inputs){dot}{path}"
        )
    return ir.StreamField(0, "inputs", span=span)


def data_attribute(base: DataValue, word: str, word_span: Span, span: Span, ctx: Context) -> Value:
    """`cifar.test`, `cifar.classes`, `cifar.superclasses`, `cifar.unlabelled`, and stream fields `a.inputs`."""
    data = base.data
    if word in ir.STREAM_FIELDS:
        return _stream_field(base, word, span, ctx)
    if word == "unlabelled":
        return DataValue(data, base.split, base.classes, True, span)
    if word == "classes":
        if not data.classes:
            raise error("KD0707", span, name=data.name)
        return ClassesValue(base.classes or ClassSet(data.name, list(range(len(data.classes)))), data, span)
    if word == "superclasses":
        groups = ctx.session.tables["superclasses"].get(data.name)
        if not groups:
            raise error("KD0704", span, name=data.name)
        parts = [ClassSet(data.name, list(ids), label) for label, ids in groups.items()]
        return VerticalsValue(data, parts, True, span)
    if word in data.sizes or word in SPLIT_NAMES:
        if word not in data.sizes:
            raise error("KD0705", word_span, name=data.name, split=word, splits=listing(data.sizes))
        return DataValue(data, word, base.classes, base.unlabelled, span)
    known = [*data.sizes, "classes", "superclasses", "unlabelled", *ir.STREAM_FIELDS]
    raise error("KD0705", word_span, name=data.name, split=word, splits=listing(known), nearest=nearest(word, known))


def _stream_field(base: DataValue, word: str, span: Span, ctx: Context) -> ir.Expr:
    if ctx.phase is None:
        raise error("KD0248", span, name=word)
    same = [
        (i, view)
        for i, (_, view) in enumerate(ctx.phase.streams)
        if view.data is base.data
        and view.classes == base.classes
        and (view.split or "train") == (base.split or "train")
    ]
    exact = [i for i, view in same if view.unlabelled == base.unlabelled]
    for i in [*exact, *(i for i, _ in same if not base.unlabelled)]:
        return field(i, word, span, ctx)
    raise error(
        "KD0706", span, name=span.text.rpartition(".")[0], streams=listing(label for label, _ in ctx.phase.streams)
    )
