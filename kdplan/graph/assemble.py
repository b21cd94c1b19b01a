"""A phase and its modules, to graphs: the centre of kdplan.

`join` makes one pruned graph of networks and loss; `assemble` cuts it into a frozen and a trainable graph. Everything
that can be known before training is checked here: taps, shapes, classes, gradients.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from torch import Tensor, fx, nn

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import PlanError, Reporter, error, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.graph.adapter import Adapters
from kdplan.graph.build import Builder
from kdplan.graph.cacheable import storing
from kdplan.graph.examples import example
from kdplan.graph.folding import fold, foldings, nothing_folded
from kdplan.graph.freeze import Split, split
from kdplan.graph.joined import JoinedPhase
from kdplan.graph.law import check_graph
from kdplan.graph.lines import NodeError
from kdplan.graph.loss import Lowering
from kdplan.graph.loss_context import LossContext, at_node
from kdplan.graph.module import without_unused_inputs
from kdplan.graph.params import upto
from kdplan.graph.phase_graph import EmaCopy, Networks, PhaseGraph, input_names
from kdplan.graph.plain_form import PlainForm, plain_form
from kdplan.graph.prune import prune
from kdplan.graph.reach import Reach, additive_terms, gradient_reach
from kdplan.graph.signals import shown
from kdplan.graph.swapped import Swapped, positions, swapped
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError, trace
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCH, GATE
from kdplan.ir.origins import EmaOf
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import Phase, Plan, Trainee
from kdplan.nn.whose import is_user_code, is_users
from kdplan.passes.spell import written


@dataclass
class Joined:
    """A phase as one pruned graph, before it is cut into a frozen and a trainable part.

    Attributes
    ----------
    graph_module
        From inputs and labels to a dict with `loss` and the logged terms.
    trainable
        Names in `graph_module` of the trainable parameters, those of adapters included.
    own
        For each trainee: parameter name within the network -> parameter.
    names
        Slot number or version -> the network's name in the builder.
    unused
        Frozen networks' calls that pruning removed, though they would have updated statistics or drawn random numbers.
    flops
        Forward, for a batch.
    """

    joined: JoinedPhase
    graph_module: fx.GraphModule
    trainable: set[str]
    own: list[dict[str, nn.Parameter]]
    names: dict[str, str]
    paths: dict[str, str]
    logged: list[str]
    unused: tuple[str, ...] = ()
    adapters: dict[str, nn.Parameter] = field(default_factory=dict)
    terms: list[tuple[ir.Expr, list[str]]] = field(default_factory=list)
    bridges: list[str] = field(default_factory=list)
    flops: int = 0
    swapped: Swapped = field(default_factory=dict)


def join(plan: Plan, phase: Phase, networks: Networks) -> Joined:
    """Build the phase's graph and prune it.

    Parameters
    ----------
    plan, phase
        What to build.
    networks
        A module for each trainee and each frozen version; their parameters may be on the meta device.

    Raises
    ------
    PlanError
        KD05xx for what does not fit, KD0601 for trainable parameters without gradient, KD0602 for constant terms.
    """
    builder = Builder()
    names: dict[str, str] = {}
    own: list[dict[str, nn.Parameter]] = []
    for slot, (trainee, module) in enumerate(zip(phase.trainees, networks.trainable, strict=True)):
        module.requires_grad_(False)
        own.append(trainable_parameters(plan, phase, trainee, module))
        names[str(slot)] = _name(trainee.base.network, names.values())
        builder.network(names[str(slot)], module, networks.whole.get(str(slot), ""))
    _add_frozen(plan, phase, networks, builder, names)
    for group in own:
        for parameter in group.values():
            parameter.requires_grad_(True)
    lowering = Lowering(LossContext(plan, phase, builder, names), Adapters(builder, phase.seed))
    loss = lowering.lower(phase.loss)
    if not loss.is_tensor:
        raise error("KD0602", phase.loss.span, term="The loss")
    if loss.shape != ():
        raise _no_scalar(phase, lowering)
    outputs = {"loss": loss.value}
    for name, e in phase.logged.items():
        term = lowering.lower(e)
        if term.is_tensor and term.shape == ():
            outputs[name] = term.value
    joined = builder.finish(outputs)
    check_graph(joined.graph_module.graph, joined.graph_module, inputs=input_names(len(phase.streams)))
    pruned = prune(joined.graph_module)
    paths = {label: builder.path(name) for label, name in names.items()}
    adapters = {f"{name}.{n}": p for name, m in joined.adapters.items() for n, p in m.named_parameters()}
    trainable = {f"{paths[str(slot)]}.{n}" for slot, group in enumerate(own) for n in group}
    trainable |= {
        f"{builder.adapter_path(name)}.{n}" for name, m in joined.adapters.items() for n, _ in m.named_parameters()
    }
    result = Joined(joined, pruned.graph_module, trainable, own, names, paths, [*outputs][1:], pruned.buffers, adapters)
    result.terms = _terms(phase.loss, lowering)
    result.bridges = lowering.adapters.bridges
    try:
        compared = {n for c in lowering.compared for n in (*c.student, *c.teacher)}
        reach = gradient_reach(result.graph_module, nodes=compared)
    except NodeError as problem:
        raise at_node(problem, phase) from problem
    result.flops = reach.flops
    _check_gradients(phase, result, reach)
    result.swapped = positions(phase, swapped(lowering.compared, reach.nodes, result.trainable))
    return result


def _add_frozen(plan: Plan, phase: Phase, networks: Networks, builder: Builder, names: dict[str, str]) -> None:
    """Register the frozen versions with the builder, in the mode that the plan says, and add their names."""
    for version in frozen_versions(phase):
        module = networks.of(version)
        module.requires_grad_(False)
        module.train(plan.networks[version.network].mode == "train")
        names[str(version)] = _name(_short(version), names.values())
        builder.network(names[str(version)], module, networks.whole.get(str(version), ""))


def assemble(plan: Plan, phase: Phase, networks: Networks) -> PhaseGraph:
    """The phase as the training loop runs it: built from real modules, pruned, cut at the frozen frontier."""
    whole = join(plan, phase, networks)
    cut = split(whole.graph_module, whole.trainable)
    inputs = input_names(len(phase.streams)) | set(cut.boundary)
    check_graph(cut.trainable_graph.graph, cut.trainable_graph, inputs=inputs, pruned=True)
    modes = whole.joined.training
    root = whole.joined.graph_module

    def set_modes() -> None:
        for path, training in modes.items():
            root.get_submodule(path).training = training

    kept = storing(plan, phase, whole.graph_module, cut, whole.trainable)
    pairs = folded_pairs(plan, phase, networks, whole, cut, bool(kept))
    return PhaseGraph(
        trainable_graph=without_unused_inputs(cut.trainable_graph),
        root=root,
        networks=list(networks.trainable),
        trainable=whole.own,
        frozen=fold(root, cut.frozen, pairs) if cut.frozen is not None and pairs else cut.frozen,
        adapters=whole.adapters,
        ema_copies=ema_copies(plan, phase, networks),
        modes=set_modes,
        terms=whole.logged,
        stored=kept,
        flops=whole.flops,
        plain=_plain(whole, cut, bool(kept)),
        labels=_labels(whole),
    )


def phase_state(plan: Plan, phase: Phase, networks: Networks, whole: Joined) -> PhaseGraph:
    """The phase with all that it keeps, as `assemble` gives it, and uncut: nothing can be trained with it."""
    root = whole.joined.graph_module
    return PhaseGraph(
        trainable_graph=whole.graph_module,
        root=root,
        networks=list(networks.trainable),
        trainable=whole.own,
        adapters=whole.adapters,
        ema_copies=ema_copies(plan, phase, networks),
        terms=whole.logged,
    )


def folded_pairs(
    plan: Plan, phase: Phase, networks: Networks, whole: Joined, cut: Split, stored: bool
) -> dict[str, str]:
    """The batch norms that are folded into convolutions, as names of nodes; {} where the recipe does not say so.

    Raises
    ------
    PlanError
        KD1008 if there are none, unless `frozen = auto` stores what frozen networks give.
    """
    recipe = phase.recipes[0]
    if not recipe.fold or (stored and recipe.frozen == "auto"):
        return {}
    if cut.frozen is None or stored:
        raise nothing_folded(phase, None)
    named = dict(whole.graph_module.named_parameters(remove_duplicate=False))
    changing = {id(named[name]) for name in whole.trainable}
    copies = [c.module for c in ema_copies(plan, phase, networks)]
    for module in (*copies, *(m for m in networks.trainable if is_user_code(m))):  # whose code may write into them
        changing |= {id(t) for t in (*module.parameters(), *module.buffers())}
    result = foldings(whole.graph_module, cut.frozen, whole.joined.training, changing)
    if not result.pairs:
        raise nothing_folded(phase, result)
    return result.pairs


def _plain(whole: Joined, cut: Split, stored: bool) -> PlainForm | None:
    """The phase in plain form, as far as it has networks or functions of the user."""
    users = [a for a in whole.joined.applications if is_users(a.module)]
    trained = {n.name for n in cut.trainable_graph.graph.nodes}
    frozen = {n.name for n in cut.frozen.graph.nodes} - trained if cut.frozen is not None else set[str]()
    if stored:
        return plain_form(whole.graph_module, users, frozen, cut.boundary, trained)
    calls = {n.meta.get("call") for n in whole.graph_module.graph.nodes if n.name in {*frozen, *cut.boundary}}
    if cut.frozen is not None and cut.cacheable and not any(a.call in calls and not a.is_whole for a in users):
        form = plain_form(whole.graph_module, users, frozen, cut.boundary, trained)
        return replace(form, crossing=True) if form is not None else None
    return plain_form(whole.graph_module, users, frozen, kept=trained | frozen)


def _labels(whole: Joined) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for label, name in whole.names.items():
        labels.setdefault(name, []).append(label)
    return labels


# ---- what is trained


def no_part(module: nn.Module, path: str, network: str, span: Span | None) -> PlanError:
    """KD0509: a network has no sub-module of that path."""
    known = [n for n, _ in module.named_modules() if n.count(".") == path.count(".") and n]
    near = nearest(path, known)
    help = f"Did you mean `{near}`?" if near else f"Choose from {listing(known)}"
    return error("KD0509", span, network=network, path=path, help=help)


def trainable_parameters(plan: Plan, phase: Phase, trainee: Trainee, module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that a trainee trains; puts exactly the trained part into training mode.

    Raises
    ------
    PlanError
        KD0509 for a path that the network lacks, KD0501 for a tap that it lacks, KD0603 if nothing would be trained,
        KD0604 if that is so because taps stand in the wrong order.
    """
    named = dict(module.named_parameters())
    module.eval()
    if trainee.upto:
        chosen = _upto(plan, phase, trainee, module)
        parameters = {n: p for n, p in named.items() if n in chosen}
        _train_covered(module, {id(p) for p in parameters.values()})
    elif trainee.paths:
        parameters = {}
        for path in trainee.paths:
            try:
                part = module.get_submodule(path)
            except AttributeError:
                raise no_part(module, path, trainee.base.network, trainee.span) from None
            part.train()
            parameters.update({n: p for n, p in named.items() if n == path or n.startswith(path + ".")})
    else:
        parameters = named
        module.train()
    if not parameters and trainee.since:
        taps, since = listing(trainee.upto), listing(trainee.since)
        raise error("KD0604", trainee.span, name=trainee.base.network, taps=taps, since=since)
    stateful = not named and any(True for _ in module.buffers())  # it is trained all the same: its state changes
    if not parameters and not stateful:
        raise error("KD0603", trainee.span, name=trainee.base.network)
    return parameters


def _upto(plan: Plan, phase: Phase, trainee: Trainee, module: nn.Module) -> set[str]:
    data = plan.data[phase.streams[0].data]
    if data.shape is None:
        raise error("KD0514", trainee.span, name=data.name)
    try:
        traced = trace(module, example(data, 2))
        return upto(traced, trainee.upto, trainee.since)
    except TapError as problem:
        top = [t for t in problem.available if "." not in t and "#" not in t]
        raise error(
            "KD0501",
            trainee.span,
            network=trainee.base.network,
            tap=problem.path,
            help=f"Choose from {listing(top, 20)}.",
        ) from None
    except TraceError as problem:
        shapes = f"images {shown((1, *data.shape))}"
        raise foreign("KD0508", trainee.span, problem, network=trainee.base.network, shapes=shapes) from problem


def _train_covered(module: nn.Module, trainable: set[int]) -> None:
    """Training mode for the largest modules whose parameters are all trainable."""
    own = {id(p) for p in module.parameters()}
    if own and own <= trainable:
        module.train()
    elif own & trainable:
        for child in module.children():
            _train_covered(child, trainable)


def frozen_versions(phase: Phase) -> list[ir.Version]:
    """The versions that a phase reads and does not train."""
    versions: dict[str, ir.Version] = {}
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.Version):
                versions.setdefault(str(e.of), e.of)
    return list(versions.values())


def ema_copies(plan: Plan, phase: Phase, networks: Networks) -> list[EmaCopy]:
    """The networks among the frozen ones that are EMA copies of what the phase trains.

    Raises
    ------
    PlanError
        KD0308 for a copy of what it does not train.
    """
    copies = []
    slots = {m.base.network: i for i, m in enumerate(phase.trainees)}
    for version in frozen_versions(phase):
        origin = plan.networks[version.network].origin
        if isinstance(origin, EmaOf) and version.phase is None:
            if origin.network not in slots:
                raise error("KD0308", version.span, name=version.network, source=origin.network, phase=phase.name)
            source = networks.trainable[slots[origin.network]]
            copies.append(EmaCopy(version.network, networks.of(version), source, origin.decay))
    return copies


# ---- names and checks


def _short(version: ir.Version) -> str:
    """How messages and drawings call a frozen version: without the network's name repeated in its phase's."""
    if version.phase is None:
        return f"{version.network}@init"
    phase = version.phase.removeprefix(f"{version.network}@")
    return f"{version.network}@{phase}" + (f"[{version.snapshot}]" if version.snapshot != "last" else "")


def _name(wanted: str, taken: Iterable[str]) -> str:
    used = set(taken)
    name, count = wanted, 1
    while name in used:
        count += 1
        name = f"{wanted} ({count})"
    return name


def _dims(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(['B', *map(str, shape[1:])])}]"


def _check_gradients(phase: Phase, joined: Joined, reach: Reach) -> None:
    """KD0601 and KD0602, both at once where both are wrong."""
    if not reach.whole & joined.trainable:
        raise error("KD0602", phase.loss.span, term="The loss")
    reporter = Reporter()
    for slot, (trainee, group) in enumerate(zip(phase.trainees, joined.own, strict=True)):
        prefix = joined.paths[str(slot)]
        still = [n for n in group if f"{prefix}.{n}" not in reach.whole]
        if still:
            parts = listing(_parts(still, group))
            what = "All parameters" if len(still) == len(group) else f"The parameters of {parts}"
            reporter.report("KD0601", trainee.span or phase.span, network=trainee.base.network, phase=phase.name,
                            parameters=what, help=_trainable_help(trainee, still, group, phase))  # fmt: skip
    _check_terms(phase, joined, reach.constant(joined.trainable), reporter)
    if reporter.errors:
        raise PlanError(reporter.errors)


def _parts(still: Collection[str], group: Collection[str]) -> list[str]:
    """The largest parts of a network of which all parameters are among `still`, as a plan writes them.

    >>> _parts(["gate.w", "branch.1.fc.w"], ["gate.w", "branch.0.fc.w", "branch.1.fc.w"])
    ['gate', 'branch[1]']
    """
    others = [n for n in group if n not in set(still)]
    parts: dict[str, None] = {}
    for name in still:
        steps = name.split(".")
        prefixes = [".".join(steps[: i + 1]) for i in range(len(steps))]
        whole = (p for p in prefixes if p != BRANCH and not any(o.startswith(f"{p}.") for o in others))
        parts[next(whole, name)] = None
    return [written(p) for p in parts]


def _no_scalar(phase: Phase, lowering: Lowering) -> PlanError:
    """KD0504, of the term that is no scalar."""
    summed = isinstance(phase.loss, ir.Op) and phase.loss.op == "+"
    terms = phase.loss.args if isinstance(phase.loss, ir.Op) and summed else [phase.loss]
    shapes = [(term, lowering.lower(term)) for term in terms]
    term, shape = next((term, s.shape) for term, s in shapes if s.is_tensor and s.shape != ())
    text = term.span.text if term.span is not None else "loss"
    batch = lowering.context.batch(0)
    shown = _dims(shape) if shape[0] == batch else f"[{', '.join(map(str, shape))}]"
    return error("KD0504", term.span or phase.loss.span, term=text, shape=shown)


def _trainable_help(trainee: Trainee, still: list[str], group: dict[str, nn.Parameter], phase: Phase) -> str | None:
    if len(still) == len(group):
        return "Remove the network from `of`, or add a term that depends on it."
    if trainee.paths or trainee.upto:
        return None
    if all(n.startswith(f"{GATE}.") for n in still):
        return "Add a term of `gated`, such as `cross_entropy(gated.logits, labels)`, or write `gate = mean`."
    if any(n.startswith(f"{BRANCH}.") for n in group):
        return f"Add terms of every branch, such as `sum(cross_entropy(b.logits, labels) for b in {BRANCH})`."
    trained = [e for e in ir.walk(phase.loss) if isinstance(e, ir.Tap) and isinstance(e.of, ir.InTraining)]
    taps = [e.path for e in trained if e.path and len(e.inputs) == 1]
    inner = [t for t in taps if not is_scores(t)]
    name = trainee.base.network.partition("[")[0]
    if inner:
        return f"Write `of upto({name}.{written(inner[-1])})`."
    idle = {n.partition(".")[0] for n in still}
    parts = [part for part in dict.fromkeys(n.partition(".")[0] for n in group) if part not in idle]
    return f"Write `of {', '.join(f'{name}.{p}' for p in parts)}` to train only the rest." if parts else None


def _check_terms(phase: Phase, joined: Joined, constant: set[str], reporter: Reporter) -> None:
    """Additive terms of the loss that give no trainable parameter a gradient."""
    for term, names in joined.terms:
        if constant.issuperset(names):
            text = term.span.text if term.span else "A term of the loss"
            reporter.report("KD0602", term.span or phase.span, term=f"`{text}`")


def _terms(loss: ir.Expr, lowering: Lowering) -> list[tuple[ir.Expr, list[str]]]:
    """The terms of a loss that is a sum, each with the nodes that it adds: none for a function's Python number."""
    if not (isinstance(loss, ir.Op) and loss.op == "+"):
        return []
    signals = [(term, lowering.lower(term)) for term in loss.args]
    nodes = [(term, signal.value) for term, signal in signals if isinstance(signal.value, fx.Node)]
    return [
        (term, [n.name for n in additive_terms(node)] if isinstance(node.meta["val"], Tensor) else [])
        for term, node in nodes
    ]
