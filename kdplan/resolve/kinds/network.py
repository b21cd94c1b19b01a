"""`model`, `teacher`, `student`, `network`: architectures, initial weights, and networks made from networks."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal, cast

from kdplan.constructs import made as lowering
from kdplan.constructs.generations import INDEX
from kdplan.diagnostics.report import Gather, PlanError, error
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.adapted import HELD
from kdplan.ir.functions import PLAN_FUNCTIONS
from kdplan.ir.kinds import KINDS, MADE, NETWORKS
from kdplan.ir.plan import (
    ENSEMBLE,
    Averaged,
    ClassSet,
    Copied,
    EmaOf,
    Ensembled,
    Fresh,
    Item,
    Loaded,
    Merged,
    Network,
)
from kdplan.passes.load import Declared
from kdplan.resolve import axes
from kdplan.resolve import setting_values as settings
from kdplan.resolve.answers import Answers
from kdplan.resolve.apply import family_error, weights
from kdplan.resolve.arithmetic import check_required, chosen, unknown_parameter
from kdplan.resolve.context import Context, NeedAxis, remember
from kdplan.resolve.derive.growth import code_of
from kdplan.resolve.derive.named import named, part
from kdplan.resolve.kinds import head as make_head
from kdplan.resolve.kinds import phase as make_phase
from kdplan.resolve.kinds.data import unique_name
from kdplan.resolve.values import (
    Choice,
    ClassesValue,
    Family,
    ModelValue,
    NetInstance,
    NetValue,
    UserFunction,
    Value,
    describe,
)
from kdplan.syntax import ast


def model_value(thing: Declared, span: Span, ctx: Context) -> ModelValue:
    def make(inner: Context) -> ModelValue:
        clause = thing.node.clause("=")
        assert clause is not None
        found = inner.child(exclude=thing.name).eval(clause.exprs[0], "model")
        return as_model(found, clause.exprs[0], inner)

    made = remember(ctx.in_module(thing.module), (thing, thing.name), "model", span, make)
    return ModelValue(made.item, made.classes, made.code, span)


def as_model(found: Value, node: ast.Expr, ctx: Context) -> ModelValue:
    if isinstance(found, ModelValue):
        return found
    if isinstance(found, Choice):
        check_required(ctx.session.tables["model"].get(found.item.name), found.item.arguments, found.span)
        return ModelValue(found.item, _classes_of(node, ctx), None, node.span)
    if isinstance(found, UserFunction) and found.name:
        return ModelValue(Item(f"{found.code.path}:{found.name}", {}, span=node.span), None, found.code, node.span)
    raise error("KD0249", node.span, wants="an architecture", found=describe(found))


def _classes_of(node: ast.Expr, ctx: Context) -> ClassSet | None:
    return argument_classes(node, ctx) if isinstance(node, ast.Call) else None


def argument_classes(node: ast.Call, ctx: Context) -> ClassSet | None:
    """The class set that a call's `classes` names, where it is one and not a number."""
    for keyword in node.keywords:
        if keyword.name == "classes":
            value = ctx.eval(keyword.value, "any")
            return value.classes if isinstance(value, ClassesValue) else None
    return None


# ---- instances


def instance(thing: Declared, bound: dict[str, tuple[Any, Value]], span: Span, ctx: Context) -> NetInstance:
    """One network of a declaration, made once."""
    key = (thing, thing.name, tuple(repr(label) for label, _ in bound.values()))
    if INDEX in bound and thing.kind == "generations":
        _before(thing, bound, span, ctx)
    return remember(ctx.in_module(thing.module), key, "network", span, lambda inner: _instance(thing, bound, inner))


def _before(thing: Declared, bound: dict[str, tuple[Any, Value]], span: Span, ctx: Context) -> None:
    """Makes the generations before one, the first one first: a long line must not be a deep recursion."""
    for m in range(bound[INDEX][0] - 1):
        earlier = {**bound, INDEX: (m, ir.Const(m, span=span))}
        key = (thing, thing.name, tuple(repr(label) for label, _ in earlier.values()))
        if key in ctx.session.active:
            return
        try:
            inner = ctx.in_module(thing.module).child(reads=set())
            remember(inner, key, "network", span, lambda c, e=earlier: _instance(thing, e, c))  # type: ignore[misc]
        except (NeedAxis, PlanError):
            return  # what comes to light here is told where the generation is read


def _instance(thing: Declared, bound: dict[str, tuple[Any, Value]], ctx: Context) -> NetInstance:
    """Made twice where a body phase reads axes that the network itself does not: its name shows all of them."""
    before: frozenset[Declared] | None = None
    while before != frozenset(ctx.reads):
        before = frozenset(ctx.reads)
        made = _make(thing, bound, ctx)
        if not made.phases:
            break
    _register(made, ctx)
    if thing.kind == "generations":  # shown together, in order
        line = unique_name(thing, thing.name, ctx)
        line += axes.suffix({}, {n: v for n, v in made.coordinates.items() if n != INDEX})
        for phase in made.phases.values():
            ctx.session.places[phase.name] = thing.node.head_span
            phase.phase.construct = line
    return made


def _make(written: Declared, bound: dict[str, tuple[Any, Value]], ctx: Context, name: str | None = None) -> NetInstance:
    local = ctx.child(names={**(ctx.names if name else {}), **{n: v for n, (_, v) in bound.items()}})
    shown = {n: label for n, (label, _) in bound.items()}
    node = lowering.network(written.node, shown, Answers(written.node, local))
    thing = written if node is written.node else Declared(node, written.module)
    clause = node.clause("=")
    assert clause is not None
    hidden = None if written.kind == "generations" else thing.name  # a line's member may start from another one
    found = local.child(exclude=hidden).eval(clause.exprs[0], "model")
    network = _derived(found, local) if isinstance(found, NetValue) else None
    model: ModelValue | None = None
    if network is None:
        model = as_model(found, clause.exprs[0], local)
        network = Network("", model.item, classes=model.classes, codes=model.codes, spans=model.spans)
        network.code = _code(model)
    network.role = thing.kind  # type: ignore[assignment]
    network.span = node.head_span
    _settings(network, thing, local)
    if model is not None and model.seed is not None and not _says_seed(node):
        network.seed = model.seed
    coords = {**shown, **axes.coordinates(ctx)}
    network.name = name or unique_name(written, thing.name, ctx) + axes.suffix({}, coords)
    built = NetInstance(thing, network, coords)
    inner_phases = [i for i in node.items or [] if isinstance(i, ast.Declaration) and i.kind == "phase"]
    built.fresh = isinstance(network.origin, Fresh) and not inner_phases
    if not isinstance(network.origin, Fresh):
        built.as_declared = ir.Version(network.name, None)
    me = NetValue(built, None, (), node.head_span)
    gather = Gather()
    for inner in inner_phases:
        with gather:
            inside = local.child(names={**local.names, "self": me})
            built.phases[inner.name or ""] = make_phase.make(Declared(inner, thing.module), bound, built, inside)
    gather.raise_if_failed()
    _leave(built)
    return built


def inside(thing: Declared, bound: dict[str, tuple[Any, Value]], construct: str, ctx: Context) -> NetInstance:
    """A network that a construct makes, called after it."""
    coords = {**{n: label for n, (label, _) in bound.items()}, **axes.coordinates(ctx)}
    return _make(thing, bound, ctx, f"{construct}{axes.suffix({}, coords)}.{thing.name}")


def _leave(made: NetInstance) -> None:
    """What a bare name reads after the body's phases: the one that no other body phase goes on from."""
    if not made.phases:
        return
    gone_on_from = {m.base.phase for p in made.phases.values() for m in p.phase.trainees}
    ends = [p for p in made.phases.values() if p.name not in gone_on_from and made in p.trained]
    made.as_declared = ir.Version(made.name, ends[0].name) if len(ends) == 1 else None
    made.fresh = made.as_declared is None


def _register(made: NetInstance, ctx: Context) -> None:
    plan = ctx.session.plan
    plan.networks[made.name] = made.network
    for phase in made.phases.values():
        plan.phases[phase.name] = phase.phase


def _settings(network: Network, thing: Declared, ctx: Context) -> None:
    gather = Gather()
    with gather:
        network.seed = seed_setting(thing.node, ctx)
    kind = KINDS[thing.kind]
    for item in thing.node.items or []:
        if not isinstance(item, ast.Setting) or item.name == "seed":
            continue
        spec = kind.setting(item.name)
        if spec is None or item.name in make_head.SETTINGS:
            continue
        with gather:
            value = settings.read(spec, item.value, ctx)
            if item.name == "mode":
                network.mode = value
            elif item.name == "reset":
                network.reset = value
            else:
                network.origin = _loaded(value, item.value.span, thing.module.folder)
    gather.raise_if_failed()
    make_head.attach(network, _outputs(network, ctx), thing.node, ctx)


def _loaded(name: str, span: Span, folder: Path) -> Loaded:
    path = (folder / name).resolve()
    if not path.is_file():
        raise error("KD0211", span, file=name, folder=str(folder))
    return Loaded(str(path), file_hash(path), span=span)


def seed_setting(node: ast.Declaration, ctx: Context, outer: int | None = None) -> int:
    """`seed`: the declaration's own, else the enclosing one's, else the file's `param seed`, else 0."""
    for item in node.items or []:
        if isinstance(item, ast.Setting) and item.name == "seed":
            spec = KINDS["phase"].setting("seed")
            assert spec is not None
            names = dict(ctx.names)
            if outer is not None or not _has_seed(ctx):
                names.setdefault("seed", ir.Const(outer or 0, span=item.value.span))
            return int(settings.read(spec, item.value, ctx.child(names=names)))
    return outer if outer is not None else file_seed(ctx)


def _has_seed(ctx: Context) -> bool:
    thing = ctx.module.scope.get("seed")
    return isinstance(thing, Declared) and thing.kind == "param"


def file_seed(ctx: Context) -> int:
    """`param seed` of the file, or 0."""
    if not _has_seed(ctx):
        return 0
    thing = ctx.module.scope["seed"]
    assert isinstance(thing, Declared)
    value = ctx.child(names={}, exclude=None).eval(ast.Name(thing.node.span, "seed"), "any")
    if not (isinstance(value, ir.Const) and isinstance(value.value, int)):
        raise error("KD0244", thing.node.span, what="`seed`", wants="an integer", found=describe(value))
    return value.value


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- networks from networks


def _derived(found: NetValue, ctx: Context) -> Network:
    """`student b = small@kd`, or what `merge`, `average`, `ema` gave."""
    found = part(found, ctx)
    base = found.instance.network
    copied = found.instance.declared.kind in NETWORKS | MADE
    version = weights(found, ctx) if copied else None
    origin = Copied(version) if isinstance(version, ir.Version) else base.origin
    return Network(
        "", base.architecture, classes=base.classes, origin=origin, code=base.code, codes=base.codes, spans=base.spans
    )


def _code(model: ModelValue) -> str | None:
    """The hash of a user's code that makes a network."""
    if model.item.name in HELD:
        return code_of(model.codes)
    code = model.code.path if model.code else model.item.name.partition(":")[0] if ":" in model.item.name else None
    return file_hash(Path(code)) if code else None


def _says_seed(node: ast.Declaration) -> bool:
    return any(isinstance(i, ast.Setting) and i.name == "seed" for i in node.items or [])


def from_networks(function: str, values: list[Value], node: ast.Call, ctx: Context) -> NetValue:
    """`merge(a@p, b@q)`, `average(…)`, `ema(n, decay)`, `ensemble(…)`: a network that is named by the call itself.

    Raises
    ------
    PlanError
        KD0253 where the networks differ in architecture; KD0274 where an ensemble's differ in classes.
    """
    nets: list[NetValue] = []
    for v in values:
        if isinstance(v, Family):
            raise family_error(v)
        if isinstance(v, NetValue):
            v = part(v, ctx)
        if not isinstance(v, NetValue) or v.path:
            raise error("KD0250", node.span, what=describe(v))
        nets.append(v)
    if function == "ensemble":
        return _ensemble(nets, node, ctx)
    first = nets[0].instance.network
    for net in nets[1:]:
        other = net.instance.network
        if (other.architecture.name, other.architecture.arguments) != (
            first.architecture.name,
            first.architecture.arguments,
        ):
            raise error("KD0253", net.span, function=function, first=nets[0].span.text, second=net.span.text)
    if function == "ema":
        decay = 0.999
        for k in node.keywords:
            value = ctx.eval(k.value, "any")
            if k.name != "decay" or not isinstance(value, ir.Const) or not isinstance(value.value, int | float):
                raise error(
                    "KD0230", k.name_span, function="`ema`", name=k.name, help="Write `decay`, a number from 0 to 1."
                )
            decay = float(value.value)
        origin: Any = EmaOf(nets[0].instance.name, decay)
        name = f"ema({nets[0].instance.name}, decay = {decay!r})"
    else:
        versions = [w for n in nets if isinstance(w := weights(n, ctx), ir.Version)]
        origin = Merged(versions) if function == "merge" else Averaged(versions)
        name = f"{function}({', '.join(map(str, versions))})"
    network = Network(name, first.architecture, first.role, first.classes, first.seed, origin, code=first.code)
    made = named(network, nets[0].instance.declared.module, node.span, ctx)
    if function == "merge" and len({id(n.instance) for n in nets}) == 1:
        made.instance.stands_for = nets[0].instance
    return made


def _ensemble(nets: list[NetValue], node: ast.Call, ctx: Context) -> NetValue:
    """A network whose architecture holds those of its members, and whose weights are theirs.

    Raises
    ------
    PlanError
        KD0274 where members are over different classes.
    """
    mean, stacked = _joined(node, ctx)
    if stacked:
        return _stacked(nets, node, ctx)
    sets = _class_sets(nets, ctx)
    orders: list[list[int] | None] = []
    for net, own in zip(nets, sets, strict=True):
        first = sets[0]
        if own is not None and first is not None:
            fits = own.data == first.data and sorted(own.ids) == sorted(first.ids)
        else:
            sizes = {_outputs(n.instance.network, ctx) for n in (nets[0], net)}
            fits = None in sizes or len(sizes) == 1
        if not fits:
            one, two = (_over(n.instance.network, ctx) for n in (nets[0], net))
            raise error("KD0274", net.span if len(node.args) > 1 else node.span, first=nets[0].instance.name, one=one,
                        second=net.instance.name, two=two,
                        why="an ensemble averages scores of the same classes")  # fmt: skip
        known = own is not None and first is not None and own.ids != first.ids
        orders.append([own.ids.index(c) for c in first.ids] if known and own and first else None)
    return _of_members(nets, mean, orders if any(orders) else None, sets[0], node, ctx)


def _stacked(nets: list[NetValue], node: ast.Call, ctx: Context) -> NetValue:
    """An ensemble whose scores are its members' side by side, in the data's order: of a class of several the largest.

    Raises
    ------
    PlanError
        KD0274 where members do not say their classes, or are over those of several data sets.
    """
    first = nets[0].instance.network
    for net in nets:
        own = net.instance.network.classes
        if own is None or first.classes is None or own.data != first.classes.data:
            raise error("KD0274", net.span if len(node.args) > 1 else node.span, first=nets[0].instance.name,
                        one=_over(first, ctx), second=net.instance.name, two=_over(net.instance.network, ctx),
                        why="scores are concatenated by the classes of one data set")  # fmt: skip
    every = [c for n in nets if n.instance.network.classes is not None for c in n.instance.network.classes.ids]
    classes = ClassSet(first.classes.data if first.classes else "", sorted(set(every)))
    columns = [[i for i, c in enumerate(every) if c == k] for k in classes.ids]
    return _of_members(nets, "stacked", columns, classes, node, ctx)


def _of_members(
    nets: list[NetValue],
    mean: Literal["probabilities", "logits", "stacked"],
    orders: Any,
    classes: ClassSet | None,
    node: ast.Call,
    ctx: Context,
) -> NetValue:
    versions = [w for n in nets if isinstance(w := weights(n, ctx), ir.Version)]
    members = [[n.instance.network.architecture.name, n.instance.network.architecture.arguments] for n in nets]
    codes = [n.instance.network.code for n in nets]
    item = Item(ENSEMBLE, {"members": members, "mean": mean, "orders": orders}, span=node.span)
    name = f"ensemble({', '.join(map(str, versions))}, mean = {mean})"
    network = Network(name, item, classes=classes, origin=Ensembled(versions, mean), span=node.span)
    if any(codes):
        network.code = hashlib.sha256(repr(codes).encode()).hexdigest()
    return named(network, nets[0].instance.declared.module, node.span, ctx)


def _class_sets(nets: list[NetValue], ctx: Context) -> list[ClassSet | None]:
    """What each member's logits are over. One that does not say it is over all classes of the data set that another
    names, where it has as many, and else over that other one's classes."""
    known = next((c for n in nets if (c := n.instance.network.classes) is not None), None)
    if known is None:
        return [None] * len(nets)
    count = len(ctx.session.plan.data[known.data].classes)
    found: list[ClassSet | None] = []
    for net in nets:
        size = _outputs(net.instance.network, ctx)
        every = ClassSet(known.data, list(range(count))) if size == count else None
        same = known if size in (None, len(known.ids)) else None
        found.append(net.instance.network.classes or every or same)
    return found


def _joined(node: ast.Call, ctx: Context) -> tuple[Literal["probabilities", "logits"], bool]:
    """Of what an ensemble's mean is taken, and whether none is: scores then stand side by side."""
    params = {p.name: p for p in PLAN_FUNCTIONS["ensemble"].params if p.choices}
    found = {name: p.default for name, p in params.items()}
    for k in node.keywords:
        if k.name not in params:
            raise unknown_parameter(k, "`ensemble`", [*params])
        found[k.name] = chosen(params[k.name], k.value, ctx).value
    return cast(Literal["probabilities", "logits"], found["mean"]), found["join"] == "concat"


def _outputs(network: Network, ctx: Context) -> int | None:
    """How many classes a network's logits are over, where its architecture tells."""
    if network.classes is not None:
        return len(network.classes.ids)
    spec = ctx.session.tables["model"].get(network.architecture.name)
    param = spec.param("classes") if spec is not None else None
    found = network.architecture.arguments.get("classes", param.default if param is not None else None)
    return found if isinstance(found, int) else None


def _over(network: Network, ctx: Context) -> str:
    of = f" of `{network.classes.data}`" if network.classes is not None else ""
    label = f" (`{network.classes.label}`)" if network.classes is not None and network.classes.label else ""
    return f"{_outputs(network, ctx)} classes{of}{label}"
