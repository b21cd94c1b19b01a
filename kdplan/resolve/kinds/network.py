"""`teacher`, `student`, `network`, and what lowers to them: one network with its initial weights and its phases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdplan.constructs.table import CONSTRUCTS, KINDS, NAMED_AS_NETWORKS
from kdplan.diagnostics.report import Gather, PlanError
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.origins import Copied, Fresh
from kdplan.ir.plan import Network
from kdplan.nn.pretrained import named_weights
from kdplan.passes.load import Declared
from kdplan.resolve import axes, setting_values, weight_files
from kdplan.resolve.answers import Answers
from kdplan.resolve.context import Context, NeedAxis, remember
from kdplan.resolve.derive.named import part
from kdplan.resolve.kinds import head
from kdplan.resolve.kinds.data import unique_name
from kdplan.resolve.kinds.model import as_model, code_hash_of, outputs
from kdplan.resolve.kinds.phase import make_phase
from kdplan.resolve.seeds import says_seed, seed_setting
from kdplan.resolve.signals import weights
from kdplan.resolve.values import (
    Bound,
    ModelValue,
    NetInstance,
    NetValue,
)
from kdplan.syntax import ast
from kdplan.syntax.walk import walk

# ---- instances


def network_instance(thing: Declared, bound: Bound, span: Span, ctx: Context) -> NetInstance:
    """One network of a declaration, made once."""
    key = (thing, thing.name, tuple(repr(label) for label, _ in bound.values()))
    index = _index(thing)
    if index in bound:
        _before(thing, index, bound, span, ctx)
    return remember(ctx.in_module(thing.module), key, "network", span, lambda inner: _instance(thing, bound, inner))


def _index(thing: Declared) -> str:
    """The index that the declaration has without writing it; "" for none."""
    construct = CONSTRUCTS.get(thing.kind)
    return construct.index.name if construct is not None and construct.index is not None else ""


def _before(thing: Declared, index: str, bound: Bound, span: Span, ctx: Context) -> None:
    """Makes the members before one, the first one first: a long line must not be a deep recursion."""
    number = bound[index][0]
    assert isinstance(number, int)
    for m in range(number - 1):
        earlier = {**bound, index: (m, ir.Const(m, span=span))}
        key = (thing, thing.name, tuple(repr(label) for label, _ in earlier.values()))
        if key in ctx.session.active:
            return
        try:
            inner = ctx.in_module(thing.module).child(reads=set())
            remember(inner, key, "network", span, lambda c, e=earlier: _instance(thing, e, c))  # type: ignore[misc]
        except (NeedAxis, PlanError):
            return  # mistakes here are reported where the generation is read


def _instance(thing: Declared, bound: Bound, ctx: Context) -> NetInstance:
    """Made twice where a body phase reads axes that the network itself does not: its name shows all of them."""
    before: frozenset[Declared] | None = None
    while before != frozenset(ctx.reads):
        before = frozenset(ctx.reads)
        instance = _make(thing, bound, ctx)
        if not instance.phases:
            break
    _register(instance, ctx)
    index = _index(thing)
    if index:  # shown together, in order
        line = unique_name(thing, thing.name, ctx)
        line += axes.suffix({}, {n: v for n, v in instance.coordinates.items() if n != index})
        for phase in instance.phases.values():
            ctx.session.construct_spans[phase.name] = thing.node.head_span
            phase.phase.construct = line
    return instance


def _make(written: Declared, bound: Bound, ctx: Context, name: str | None = None) -> NetInstance:
    ctx.session.count_instance(written.node.head_span)
    local = ctx.child(names={**(ctx.names if name else {}), **{n: v for n, (_, v) in bound.items()}})
    shown = {n: label for n, (label, _) in bound.items()}
    node = _lowered(written.node, shown, local)
    thing = written if node is written.node else Declared(node, written.module)
    clause = node.clause("=")
    assert clause is not None
    hidden = None if _index(written) else thing.name  # a line's member may start from another one
    value = local.child(exclude=hidden).eval(clause.exprs[0], "model")
    network = _derived(value, local) if isinstance(value, NetValue) else None
    model: ModelValue | None = None
    if network is None:
        model = as_model(value, clause.exprs[0], local)
        network = Network("", model.item, classes=model.classes, codes=model.codes, spans=model.spans)
        network.code = code_hash_of(model)
    network.role = thing.kind  # type: ignore[assignment]
    network.span = node.head_span
    _settings(network, thing, local, as_written=model is not None)
    if model is not None and model.seed is not None and not says_seed(node):
        network.seed = model.seed
    coords = {**shown, **axes.coordinates(ctx, shown)}
    network.name = name or unique_name(written, thing.name, ctx) + axes.suffix({}, coords)
    built = NetInstance(thing, network, coords)
    inner_phases = [i for i in node.items or [] if isinstance(i, ast.Declaration) and i.kind == "phase"]
    starts_fresh = isinstance(network.origin, Fresh) and named_weights(network.architecture) is None
    built.fresh = starts_fresh and not inner_phases
    if not starts_fresh:
        built.as_declared = ir.Version(network.name, None)
    me = NetValue(built, None, (), node.head_span)
    gather = Gather()
    for inner in inner_phases:
        with gather:
            inside = local.child(names={**local.names, "self": me})
            known = inner if id(inner) in thing.module.broken else _with_definitions(inner, node)
            built.phases[inner.name or ""] = make_phase(Declared(known, thing.module), bound, built, inside)
    gather.raise_if_failed()
    _leave(built)
    return built


def _with_definitions(phase: ast.Declaration, node: ast.Declaration) -> ast.Declaration:
    """A body's phase with the body's definitions that it reads, as if they stood in it."""
    own = {i.name for i in phase.items or [] if isinstance(i, ast.Declaration) and i.kind == "def"}
    known = {i.name: i for i in node.items or [] if isinstance(i, ast.Declaration) and i.kind == "def"}
    read: set[str | None] = set()
    waiting: list[ast.Declaration] = [phase]
    while waiting:
        for e in walk(waiting.pop()):
            if isinstance(e, ast.Name) and e.name in known and e.name not in own | read:
                read.add(e.name)
                waiting.append(known[e.name])
    return replace(phase, items=[*(i for name, i in known.items() if name in read), *(phase.items or [])])


def _lowered(node: ast.Declaration, labels: Mapping[str, object], ctx: Context) -> ast.Declaration:
    """The declaration of one network of the core; a network is one already."""
    construct = CONSTRUCTS.get(node.kind)
    if construct is None:
        return node
    assert construct.network is not None
    return construct.network(node, labels, Answers(node, ctx))


def network_of_construct(thing: Declared, bound: Bound, construct: str, ctx: Context) -> NetInstance:
    """A network that a construct makes, called after it."""
    coords = {**{n: label for n, (label, _) in bound.items()}, **axes.coordinates(ctx, bound)}
    return _make(thing, bound, ctx, f"{construct}{axes.suffix({}, coords)}.{thing.name}")


def _leave(instance: NetInstance) -> None:
    """What a bare name reads after the body's phases: the one that no other body phase goes on from."""
    if not instance.phases:
        return
    gone_on_from = {m.base.phase for p in instance.phases.values() for m in p.phase.trainees}
    ends = [p for p in instance.phases.values() if p.name not in gone_on_from and instance in p.trained]
    instance.as_declared = ir.Version(instance.name, ends[0].name) if len(ends) == 1 else None
    instance.fresh = instance.as_declared is None


def _register(instance: NetInstance, ctx: Context) -> None:
    plan = ctx.session.plan
    plan.networks[instance.name] = instance.network
    for phase in instance.phases.values():
        plan.phases[phase.name] = phase.phase


def _settings(network: Network, thing: Declared, ctx: Context, as_written: bool) -> None:
    gather = Gather()
    with gather:
        network.seed = seed_setting(thing.node, ctx)
    kind = KINDS[thing.kind]
    for item in thing.node.items or []:
        if not isinstance(item, ast.Setting) or item.name == "seed":
            continue
        spec = kind.setting(item.name)
        if spec is None or item.name in (*head.SETTINGS, *weight_files.SETTINGS):
            continue
        with gather:
            value = setting_values.read(spec, item.value, ctx)
            if item.name == "mode":
                network.mode = value
            else:
                assert item.name == "reset", item.name
                network.reset = value
    with gather:
        weight_files.attach(network, thing, ctx, as_written)
    gather.raise_if_failed()
    head.attach(network, outputs(network, ctx), thing.node, ctx)


def _derived(net: NetValue, ctx: Context) -> Network:
    """`student b = small@kd`, or what `merge`, `average`, `ema` gave."""
    net = part(net, ctx)
    base = net.instance.network
    copied = net.instance.declared.kind in NAMED_AS_NETWORKS
    version = weights(net, ctx) if copied else None
    origin = Copied(version) if isinstance(version, ir.Version) else base.origin
    return Network(
        "", base.architecture, classes=base.classes, origin=origin, code=base.code, codes=base.codes, spans=base.spans
    )
