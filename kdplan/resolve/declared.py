"""What a declared name stands for, kind by kind; versions `N@P`; and the functions that make networks from networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kdplan.diagnostics.report import PlanError, error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.kinds import CONSTRUCTS
from kdplan.ir.plan import ClassSet, EmaOf
from kdplan.ir.seed import fold
from kdplan.ir.spec import Spec
from kdplan.ir.versions import read_versions
from kdplan.passes.load import Declared, Module
from kdplan.resolve import axes
from kdplan.resolve.apply import TRAINING_KINDS, signal, tap
from kdplan.resolve.arithmetic import integer, plain, too_many, unknown_parameter
from kdplan.resolve.context import Context, check_sound, cycle
from kdplan.resolve.derive import adapted as make_adapted
from kdplan.resolve.derive import branched as make_branched
from kdplan.resolve.derive import perturbed as make_displaced
from kdplan.resolve.kinds import construct as make_construct
from kdplan.resolve.kinds import data as make_data
from kdplan.resolve.kinds import network as make_network
from kdplan.resolve.kinds import phase as make_phase
from kdplan.resolve.kinds import recipe as make_recipe
from kdplan.resolve.kinds import verticals as make_verticals
from kdplan.resolve.spread import spread
from kdplan.resolve.values import (
    Case,
    ClassesValue,
    Family,
    FunctionValue,
    Lazy,
    ListValue,
    NetInstance,
    NetValue,
    Part,
    PhaseInstance,
    Routing,
    Several,
    Value,
    VerticalsValue,
    describe,
)
from kdplan.syntax import ast


def value(thing: Declared, span: Span, ctx: Context, want: str) -> Value:
    """The value of a declared name."""
    check_sound(thing)
    node = thing.node
    if thing.kind == "param":
        return _once(thing, span, ctx, lambda: _param(thing, span, ctx, want))
    if thing.kind == "def":
        if node.params is not None:
            return FunctionValue(thing, span)
        return _once(thing, span, ctx, lambda: _definition(thing, span, ctx, want))
    if thing.kind == "data":
        return make_data.data_value(thing, span, ctx)
    if thing.kind == "verticals":
        return make_verticals.verticals_value(thing, span, ctx)
    if thing.kind == "recipe":
        return make_recipe.recipe_value(thing, span, ctx)
    if thing.kind == "model":
        return make_network.model_value(thing, span, ctx)
    if thing.slots:
        return Family(thing, None, span)
    return NetValue(make_network.instance(thing, {}, span, ctx), None, (), span)


def _once(thing: Declared, span: Span, ctx: Context, make: Callable[[], Value]) -> Value:
    """`make`, which must not need the declaration's own value.

    Raises
    ------
    PlanError
        KD0303, KD0235 where it does.
    """
    key = (thing, "value")
    active = ctx.session.active
    if key in active:
        raise cycle(ctx.session, key, span)
    active[key] = span
    try:
        return make()
    finally:
        del active[key]


def _param(thing: Declared, span: Span, ctx: Context, want: str) -> Value:
    if axes.is_axis(thing):
        index = ctx.coordinate(thing)
        item = axes.items(thing, ctx)[index]
        if not isinstance(item, Lazy):
            return item
        return ctx.in_module(item.module).child(exclude=thing.name).eval(item.node, want)
    override = thing.module.overrides.get(thing.name)
    clause = thing.node.clause("=")
    assert override or clause
    node = override.value if override else clause.exprs[0] if clause else None
    assert node is not None
    module = override.module if override else thing.module
    exclude = None if override and override.module is not thing.module else thing.name
    return ctx.in_module(module).child(exclude=exclude).eval(node, want)


def _definition(thing: Declared, span: Span, ctx: Context, want: str) -> Value:
    clause = thing.node.clause("=")
    assert clause is not None
    return ctx.child(module=thing.module, names={}, exclude=thing.name).eval(clause.exprs[0], want)


# ---- families


def slot_items(family: Declared, slot: ast.Slot, names: dict[str, Value], ctx: Context) -> list[tuple[Any, Value]]:
    """The members of one slot: how each is shown, and its value."""
    from kdplan.resolve.spread import iterate

    inner = ctx.in_module(family.module).child(names=dict(names))
    found = iterate(inner.eval(slot.values, "any"), slot.values.span)
    return [(axes.label(v, i), v) for i, v in enumerate(found)]


def member(family: Family, bound: dict[str, tuple[Any, Value]], span: Span, ctx: Context) -> Value:
    """One member of a family of networks, or a network as one member of a family of phases left it."""
    if family.declared.kind in TRAINING_KINDS:
        assert family.net is not None
        return _left_by(family.net, family.declared, bound, span, ctx)
    instance = make_network.instance(family.declared, bound, span, ctx)
    return NetValue(instance, None, (), span, {n: label for n, (label, _) in bound.items()})


# ---- versions


def version(base: Value, node: ast.Version, ctx: Context) -> Value:
    """`base@phase`.

    Raises
    ------
    PlanError
        KD0302 where no such phase moves the network.
    """
    if isinstance(base, Several):
        return Several([version(b, node, ctx) for b in base.items], node.span)
    if isinstance(base, Routing):
        return Routing(base.part_of, [version(b, node, ctx) for b in base.items], node.span)
    if not isinstance(base, NetValue):
        if isinstance(base, Family):
            raise error(
                "KD0401", base.span, name=base.declared.name, slots=listing(s.name for s in base.declared.slots)
            )
        raise error("KD0250", node.span, what=describe(base))
    instance = base.instance
    if node.phase == "init":
        return NetValue(
            instance, ir.Version(instance.name, None, span=node.span), base.path, node.span, base.coordinates
        )
    inner = base.construct.phases if base.construct is not None else ctx.phases
    if base.construct is not None and node.phase in base.construct.networks:
        made = base.construct.networks[node.phase]
        if _stood_for(made) is _stood_for(instance):
            written = f"{base.left_by}@{node.phase}"
            return NetValue(made, made.as_declared, base.path, node.span, base.coordinates, written)
    own = instance.phases.get(node.phase) if base.construct is None else None
    own = own or inner.get(node.phase)
    if own is not None:
        if instance not in own.trained:
            base = replace(base, instance=_stood_for(instance))
        return _trained_by(base, own, node.span, node.phase)
    if base.construct is not None:
        raise _no_such_stage(base, node)
    declared = ctx.module.after_at.get(node.phase) or instance.declared.module.after_at.get(node.phase)
    if declared is None or declared.kind not in TRAINING_KINDS:
        raise _no_such_phase(base, node, ctx)
    if declared.node.slots:
        return Family(declared, base, node.span)
    return _left_by(base, declared, {}, node.span, ctx)


def _stood_for(instance: NetInstance) -> NetInstance:
    """The network as it was declared, of which this one is another form."""
    while instance.stands_for is not None:
        instance = instance.stands_for
    return instance


def _left_by(
    base: NetValue, declared: Declared, bound: dict[str, tuple[Any, Value]], span: Span, ctx: Context
) -> Value:
    if declared.kind in CONSTRUCTS:
        construct = make_construct.instance(declared, bound, span, ctx)
        trainable = [p for p in construct.phases.values() if base.instance in p.trained]
        found = _trained_by(base, (trainable or [*construct.phases.values()])[-1], span, declared.name)
        found.construct = construct
    else:
        found = _trained_by(base, make_phase.instance(declared, bound, None, span, ctx), span, declared.name)
    found.coordinates.update({n: label for n, (label, _) in bound.items()})
    return found


def _trained_by(base: NetValue, phase: PhaseInstance, span: Span, word: str) -> NetValue:
    slot = phase.trained.get(base.instance)
    origin = base.instance.network.origin
    if slot is None and isinstance(origin, EmaOf) and _is_ema_of(base.instance.name, origin, phase):
        slot = -1  # left by the phase beside those that move
    if slot is None:
        names = listing(n.declared.name for n in phase.trained)
        raise error("KD0307", span, phase=phase.name, name=base.instance.name, trainees=names)
    network = phase.phase.trainees[slot].base.network if slot >= 0 else base.instance.name
    trained = ir.Version(network, phase.name, span=span)
    written = f"{base.left_by or base.instance.declared.name}@{word}"
    forms = [
        n for n in phase.trained if n.name == network and n.network.architecture != base.instance.network.architecture
    ]
    return NetValue(
        forms[0] if forms else base.instance,
        trained,
        base.path,
        span,
        {**base.coordinates, **phase.coordinates},
        written,
    )


def _no_such_stage(base: NetValue, node: ast.Version) -> Exception:
    assert base.construct is not None
    known = [*base.construct.phases]
    near = nearest(node.phase, known)
    help = f"Did you mean `{near}`?" if near else f"Choose from {listing(known)}."
    return error("KD0302", node.phase_span, phase=node.phase, name=f"{base.left_by}", help=help)


def _is_ema_of(network: str, origin: EmaOf, phase: PhaseInstance) -> bool:
    """Whether a moving average is read in a phase that moves what it follows."""
    trained = any(m.base.network == origin.network for m in phase.phase.trainees)
    return trained and any(v.network == network and v.phase is None for v in read_versions(phase.phase))


def _no_such_phase(base: NetValue, node: ast.Version, ctx: Context) -> Exception:
    from kdplan.resolve.apply import phases_that_train

    name = base.instance.declared.name
    if ctx.module.knows_of(node.phase):
        return PlanError([])
    phases = [*base.instance.phases, *phases_that_train(name, ctx)]
    near = nearest(node.phase, phases)
    help = (
        f"Did you mean `{near}`?"
        if near
        else f"Choose from {listing(phases)}."
        if phases
        else f"Write `{name}@init` for its initial weights."
    )
    return error("KD0302", node.phase_span, phase=node.phase, name=name, help=help)


# ---- functions of plans


def plan_function(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    """`fold`, `upto`, `through`, `merge`, `average`, `ensemble`, `branched`, `adapted`, `ema` …: see the table."""
    if spec.name == "case":
        if node.args:
            raise error("KD0227", node.args[0].span, function="case")
        return Case({k.name: _case_value(k.value, ctx) for k in node.keywords}, node.span)
    if spec.name == "upto":
        return _upto(node, ctx)
    if spec.name == "through":
        return _through(node, ctx)
    if spec.name == "perturbed":
        return make_displaced.perturbed(spec, node, ctx)
    if spec.name == "branched":
        return make_branched.branched(spec, node, ctx, make_network.as_model, make_network.file_hash)
    if spec.name == "adapted":
        return make_adapted.adapted(spec, node, ctx, make_network.as_model, make_network.file_hash)
    values = spread(node.args, ctx, "network" if spec.params[0].type == "network" else "any")
    if not values:
        raise error("KD0237", node.span, function=spec.name, name=spec.params[0].name)
    if spec.name == "fold":
        seed = integer(values[0], node.args[0].span)
        return ir.Const(fold(seed, *[plain(v, node.span) for v in values[1:]]), span=node.span)
    if spec.name == "union":
        return _union(values, node)
    if spec.name == "count":
        return ir.Const(_count(values, node), span=node.span)
    return make_network.from_networks(spec.name, values, node, ctx)


def _case_value(node: ast.Expr, ctx: Context) -> Value:
    return ctx.eval(node, "any")


def _union(values: list[Value], node: ast.Call) -> ClassesValue:
    sets = [v for v in values if isinstance(v, ClassesValue)]
    other = next((v for v in values if not isinstance(v, ClassesValue) or v.data.name != sets[0].data.name), None)
    if other is not None:
        raise error("KD0249", other.span or node.span, wants="class sets of one data set", found=describe(other))
    ids = sorted({i for s in sets for i in s.classes.ids})
    return ClassesValue(ClassSet(sets[0].data.name, ids), sets[0].data, node.span)


def _count(values: list[Value], node: ast.Call) -> int:
    one = values[0]
    if len(values) == 1 and isinstance(one, ClassesValue):
        return len(one.classes.ids)
    if len(values) == 1 and isinstance(one, VerticalsValue):
        return len(one.parts)
    if len(values) == 1 and isinstance(one, ListValue | Several):
        return len(one.items)
    return len(values)


def _upto(node: ast.Call, ctx: Context) -> Value:
    if not node.args:
        raise error("KD0237", node.span, function="upto", name="tap")
    nets: list[NetValue] = []
    for arg, net in [(a, v) for a in node.args for v in spread([a], ctx, "network")]:
        if not isinstance(net, NetValue) or not net.path:
            raise error("KD0251", arg.span, what=describe(net))
        if nets and (net.instance is not nets[0].instance or str(net.version) != str(nets[0].version)):
            raise error("KD0254", arg.span, name=nets[0].instance.declared.name)
        nets.append(net)
    since: list[str] = []
    for keyword in node.keywords:
        if keyword.name != "from":
            raise unknown_parameter(keyword, "`upto`", ["from"])
        taps = keyword.value.items if isinstance(keyword.value, ast.List) else [keyword.value]
        since = [_tap_path(tap, nets[0].instance.declared.name, ctx.module) for tap in taps]
    return Part(nets, since, node.span)


def _through(node: ast.Call, ctx: Context) -> Value:
    """A tap whose network is entered at another tap."""
    names = ["x", "tap", "from"]
    given = dict(zip(names, node.args, strict=False))
    if len(node.args) > 2:
        raise too_many(node.args[2].span, "`through`", names)
    for k in node.keywords:
        if k.name not in names or k.name in given:
            raise unknown_parameter(k, "`through`", names, given=k.name in given)
        given[k.name] = k.value
    for name in names:
        if name not in given:
            raise error("KD0237", node.span, function="through", name=name)
    x = signal(ctx.eval(given["x"]), ctx)
    net = ctx.eval(given["tap"], "network")
    if not isinstance(net, NetValue) or not net.path:
        raise error("KD0251", given["tap"].span, what=describe(net))
    found = tap(net, [x], "", ".".join(net.path), node.span, ctx)
    assert isinstance(found, ir.Tap)
    found.since = _tap_path(given["from"], net.instance.declared.name, ctx.module)
    return found


def _tap_path(node: ast.Expr, network: str, module: Module) -> str:
    """`layer1`, `small.layer1`, `common.small.layer1` or `small.fpn["0"]` as a path within the network."""
    words: list[str] = []
    e = node
    while isinstance(e, ast.Attr | ast.Pick | ast.Version):
        if isinstance(e, ast.Attr):
            words.append(e.word)
        elif isinstance(e, ast.Pick) and len(e.picks) == 1 and isinstance(e.picks[0], ast.String | ast.Number):
            words.append(str(e.picks[0].value))
        elif isinstance(e, ast.Pick) and words:
            pass  # an index of the network, not of a tap
        elif not isinstance(e, ast.Version):
            break
        e = e.base
    if not isinstance(e, ast.Name):
        raise error("KD0251", node.span, what="this")
    words.append(e.name)
    words.reverse()
    return ".".join(words[_naming(words, network, module) :])


def _naming(words: list[str], network: str, module: Module) -> int:
    """How many words of a tap name the network and the files that it is in: none where the path stands alone."""
    for i, word in enumerate(words[:-1]):
        if word == network:
            return i + 1
        inner = module.scope.get(word)
        if not isinstance(inner, Module):
            break
        module = inner
    return 0
