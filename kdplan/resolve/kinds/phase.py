"""`phase`: its trainees, data, recipe and loss."""

from __future__ import annotations

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import Gather, PlanError, error
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.branches import tap_name
from kdplan.ir.calls import number_draws
from kdplan.ir.plan import Phase, Recipe, Trainee, Validation
from kdplan.passes.load import Declared
from kdplan.resolve import axes, setting_values
from kdplan.resolve.code import code_hash
from kdplan.resolve.context import Context, PhaseFrame, remember
from kdplan.resolve.expected import no_network
from kdplan.resolve.kinds.data import unique_name, view_of
from kdplan.resolve.kinds.recipe import finish, read_settings
from kdplan.resolve.kinds.results import measure_metrics, plots
from kdplan.resolve.seeds import seed_setting
from kdplan.resolve.signals import family_error, trained_path, versions_help
from kdplan.resolve.spread import spread
from kdplan.resolve.values import (
    SIGNALS,
    Bound,
    DataValue,
    Family,
    FunctionValue,
    NetInstance,
    NetValue,
    Part,
    PhaseInstance,
    RecipeValue,
    Value,
    describe,
)
from kdplan.syntax import ast


def phase_instance(thing: Declared, bound: Bound, outer: NetInstance | None, span: Span, ctx: Context) -> PhaseInstance:
    """One phase of a top-level declaration, made once and entered into the plan."""
    key = (thing, thing.name, tuple(repr(label) for label, _ in bound.values()))

    def build(inner: Context) -> PhaseInstance:
        instance = make_phase(thing, bound, outer, inner)
        inner.session.plan.phases[instance.name] = instance.phase
        return instance

    return remember(ctx.in_module(thing.module), key, "phase", span, build)


def make_phase(
    thing: Declared,
    bound: Bound,
    outer: NetInstance | None,
    ctx: Context,
    construct: str | None = None,
) -> PhaseInstance:
    """The phase of a declaration; `outer` is the network in whose body it stands, `construct` what it comes from."""
    node = thing.node
    ctx.session.count_instance(node.head_span)
    if outer is not None and node.slots:
        raise error("KD0255", node.slots[0].name_span, name=thing.name)
    local = ctx.child(names={**ctx.names, **{n: v for n, (_, v) in bound.items()}})
    gather = Gather()
    with gather:
        trainees, trained = _trainees(node, outer, local)
    with gather:
        streams = _streams(node, local)
    if gather.failed:  # what the loss means depends on both
        with gather:
            _recipes(node, local)
    gather.raise_if_failed()
    phase = Phase("", trainees, [view_of(v) for _, v in streams], [], ir.Const(0), span=node.head_span)
    phase.stream_names = [label for label, _ in streams]
    inside = local.child(phase=PhaseFrame(thing.name, streams, trained))
    with gather:
        phase.recipes = _recipes(node, local)
    with gather:
        phase.logged = _definitions(node, thing, inside)
        phase.loss = _loss(node, inside)
    with gather:
        phase.seed = seed_setting(node, local, outer.network.seed if outer else None)
    with gather:
        phase.validations = _validations(node, thing, trained, inside)
    gather.raise_if_failed()
    for root in (phase.loss, *phase.logged.values()):  # every pass walks over all of it
        ctx.session.budget.elements(ctx.session.budget.nodes(root), root.span)
    number_draws(phase)
    _smooth(phase)
    phase.code = _code(phase)
    coords = {**{n: label for n, (label, _) in bound.items()}, **axes.coordinates(ctx, bound)}
    if outer is not None:
        phase.name = f"{outer.name}@{thing.name}"
    elif construct is not None:
        phase.name = f"{construct}{axes.suffix({}, coords)}@{thing.name}"
    else:
        phase.name = unique_name(thing, thing.name, ctx) + axes.suffix({}, coords)
    return PhaseInstance(thing, phase, coords, trained)


# ---- trainees


def _trainees(
    node: ast.Declaration, outer: NetInstance | None, ctx: Context
) -> tuple[list[Trainee], dict[NetInstance, int]]:
    clause = node.clause("of")
    trainees: list[Trainee] = []
    trained: dict[NetInstance, int] = {}
    if clause is None:
        assert outer is not None
        return [Trainee(ir.Version(outer.name, _before(outer), span=node.head_span), span=node.head_span)], {outer: 0}
    for value in spread(clause.exprs, ctx, "network"):
        part = value if isinstance(value, Part) else None
        net = part.nets[0] if part else value
        if isinstance(net, Family):
            raise family_error(net)
        if not isinstance(net, NetValue):
            raise no_network(net, net.span or clause.word_span, ctx.module)
        base = _base(net, outer, ctx)
        slot = trained.get(net.instance)
        if slot is None:
            slot = len(trainees)
            trained[net.instance] = slot
            other = net.instance.stands_for
            while other is not None:
                trained[other] = slot
                other = other.stands_for
            trainees.append(Trainee(base, span=value.span))
        trainee = trainees[slot]
        if (trainee.base.network, trainee.base.phase, trainee.base.snapshot) != (
            base.network,
            base.phase,
            base.snapshot,
        ):
            raise error(
                "KD0304",
                net.span,
                first=_span_text(trainee.span),
                second=net.span.text,
                name=net.instance.declared.name,
            )
        again = trainee.span is not value.span
        if again and (part or not net.path or not trainee.paths):
            raise error("KD0254", value.span, name=net.instance.declared.name)
        if part is not None:
            network = net.instance.network
            trainee.upto = [tap_name(network, ".".join(n.path)) for n in part.nets]
            trainee.since = [tap_name(network, path) for path in part.since]
        elif net.path:
            trainee.paths.append(".".join(net.path))
    if not trainees:
        raise _nothing(clause, "a network")
    return trainees, trained


def _span_text(span: Span) -> str:
    return span.text


def _before(outer: NetInstance) -> str | None:
    """A body phase without `of` starts from the network as it starts: phases in one body are side by side."""
    return None


def _base(net: NetValue, outer: NetInstance | None, ctx: Context) -> ir.Version:
    if net.version is not None:
        return net.version
    instance = net.instance
    if instance is outer:
        return ir.Version(instance.name, None, span=net.span)
    if instance.as_declared is not None:
        v = instance.as_declared
        return ir.Version(v.network, v.phase, v.snapshot, span=net.span)
    if instance.phases:
        raise error(
            "KD0301",
            net.span,
            name=instance.declared.name,
            help=versions_help(net, ctx),
        )
    return ir.Version(instance.name, None, span=net.span)


# ---- data and recipes


def _streams(node: ast.Declaration, ctx: Context) -> list[tuple[str, DataValue]]:
    clause = node.clause("on")
    assert clause is not None
    streams: list[tuple[str, DataValue]] = []
    for value in spread(clause.exprs, ctx, "any"):
        if not isinstance(value, DataValue):
            raise error(
                "KD0244",
                value.span or clause.word_span,
                what="`on`",
                wants="data",
                found=describe(value),
            )
        streams.append((value.span.text, value))
    if not streams:
        raise _nothing(clause, "data")
    return streams


def _nothing(clause: ast.Clause, wants: str) -> PlanError:
    """KD0244 for a clause in which nothing is left: a list without items."""
    span = clause.word_span.to(clause.exprs[-1].span)
    return error("KD0244", span, what=f"`{clause.word}`", wants=wants, found="an empty list")


def _recipes(node: ast.Declaration, ctx: Context) -> list[Recipe]:
    """One recipe, or one for each trainee."""
    clause = node.clause("with")
    assert clause is not None
    gather = Gather()
    with gather:
        overrides = read_settings(node, ctx)
    recipes: list[Recipe] = []
    values: list[Value] = []
    for e in clause.exprs:
        with gather:
            values += spread([e], ctx, "any")
    gather.raise_if_failed()
    for value in values:
        if not isinstance(value, RecipeValue):
            raise error(
                "KD0244",
                value.span or clause.word_span,
                what="`with`",
                wants="a recipe",
                found=describe(value),
            )
        recipes.append(finish(value, dict(overrides)))
        _count_snapshots(recipes[-1], ctx)
    if not recipes:
        raise _nothing(clause, "a recipe")
    return recipes


def _count_snapshots(recipe: Recipe, ctx: Context) -> None:
    """Each end of a cycle is a snapshot (KD1102 for too many)."""
    cycles = recipe.schedule.arguments.get("cycles", 1)
    ctx.session.budget.elements(int(cycles), recipe.spans.get("schedule"))


# ---- loss


def _definitions(node: ast.Declaration, thing: Declared, ctx: Context) -> dict[str, ir.Expr]:
    """`def` in a body: names for what follows; signals among them are logged."""
    logged: dict[str, ir.Expr] = {}
    for item in node.items or []:
        if not (isinstance(item, ast.Declaration) and item.kind == "def" and item.name):
            continue
        clause = item.clause("=")
        assert clause is not None
        if item.params is not None:
            value: Value = FunctionValue(Declared(item, thing.module), item.span, dict(ctx.names))
        else:
            value = ctx.eval(clause.exprs[0])
            if isinstance(value, SIGNALS) and not isinstance(value, ir.Const):
                logged[item.name] = value
        ctx.names[item.name] = value
    return logged


def _loss(node: ast.Declaration, ctx: Context) -> ir.Expr:
    spec = KINDS["phase"].setting("loss")
    assert spec is not None
    for item in node.items or []:
        if isinstance(item, ast.Setting) and item.name == "loss":
            loss: ir.Expr = setting_values.read(spec, item.value, ctx)
            return loss
    raise PlanError([])  # it has none, which the check of its form has reported


def _validations(
    node: ast.Declaration, thing: Declared, trained: dict[NetInstance, int], ctx: Context
) -> list[Validation]:
    validations: list[Validation] = []
    for item in node.items or []:
        if not (isinstance(item, ast.Declaration) and item.kind == "measure"):
            continue
        clause = item.clause("on")
        assert clause is not None
        for plot in plots(item):
            raise error("KD0849", plot.span)
        targets = [(0, "")]
        of = item.clause("of")
        if of is not None:
            targets = []
            for value in spread(of.exprs, ctx, "network"):
                if not isinstance(value, NetValue) or value.instance not in trained:
                    raise error("KD0256", value.span or of.word_span, name=thing.name)
                targets.append((trained[value.instance], trained_path(value)))
        for value in spread(clause.exprs, ctx, "any"):
            if not isinstance(value, DataValue):
                raise error("KD0244", clause.word_span, what="`on`", wants="data", found=describe(value))
            if value.split is None:
                raise error("KD0703", value.span, name=value.span.text, example=f"{value.span.text}.test")
            for slot, path in targets:
                validations.append(Validation(view_of(value), measure_metrics(item, ctx), slot, path, span=item.span))
    return validations


def _smooth(phase: Phase) -> None:
    """The recipe's label smoothing, as an argument of every cross-entropy that has none of its own."""
    amount = max(r.label_smoothing for r in phase.recipes)
    if amount == 0:
        return
    for e in ir.walk(phase.loss):
        if isinstance(e, ir.Call) and e.function == "cross_entropy" and "smoothing" not in e.keywords:
            e.keywords["smoothing"] = ir.Const(amount, span=phase.recipes[0].spans.get("label_smoothing"))


def _code(phase: Phase) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Call) and (code := code_hash(e.function)) is not None:
                hashes[e.function] = code
    return hashes
