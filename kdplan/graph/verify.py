"""A user's networks and functions against their graphs, on real numbers, before a phase trains.

A network's own `forward` is its meaning; the graph only lets kdplan look inside of it. Both run for two steps from one
state (`compare.py`). Where they differ, the network is called whole. A function is one node of the graph anyway; it is
called twice, since what differs from itself can be neither resumed nor repeated.

A verdict depends on the code and on the shapes, types, modes and precision that it is used with, and on no weights: so
a check, another phase and a run share it. The first batch of a run is compared in its first step (`plain_form.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import Diagnostic, PlanError, diagnostic, error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.arguments import arguments_of
from kdplan.graph.assemble import frozen_versions, trainable_parameters
from kdplan.graph.branched import Branched
from kdplan.graph.compare import NoGradient, Verdict, WrongTypes, compare, compare_call
from kdplan.graph.examples import example
from kdplan.graph.fingerprint import fingerprint, refined
from kdplan.graph.fork import TRACEABLE
from kdplan.graph.loss_context import at_call
from kdplan.graph.phase_graph import Networks
from kdplan.graph.signals import shown
from kdplan.graph.sizes import batch_sizes, same_graph
from kdplan.ir import expr as ir
from kdplan.ir.plan import Network, Phase, Plan
from kdplan.nn.whose import is_users, is_users_own

SAMPLES = 4
"""Of a batch; more than one, so that batch norm has a variance."""
HALF = ("bf16", "fp16")


class Verdicts(Protocol):
    """Where verdicts are kept, such as the store."""

    def number(self, kind: Literal["verdicts"], key: str, /) -> Mapping[str, Any] | None:
        """The verdict under a key, or None."""
        ...

    def keep_number(self, kind: Literal["verdicts"], key: str, value: Mapping[str, Any], /) -> None:
        """Store a verdict."""
        ...


_KNOWN: dict[str, Verdict] = {}
"""Those of this process."""


def _known(key: str | None, verdicts: Verdicts | None) -> Verdict | None:
    """The verdict under a key, of this process or of the store."""
    if key is None:
        return None
    if key not in _KNOWN and verdicts is not None and (stored := verdicts.number("verdicts", key)) is not None:
        verdict = Verdict.of(stored)
        if verdict is not None:
            _KNOWN[key] = verdict
    return _KNOWN.get(key)


def _kept(key: str | None, verdict: Verdict, verdicts: Verdicts | None) -> Verdict:
    """The verdict, which this process and the store keep where its key is known."""
    if key is not None:
        _KNOWN[key] = verdict
        if verdicts is not None:
            with suppress(OSError, PlanError):  # a store that cannot be written is no reason not to check
                verdicts.keep_number("verdicts", key, verdict.plain())
    return verdict


def verify(
    plan: Plan,
    phase: Phase,
    networks: Networks,
    inputs_of: Callable[[int], Tensor | None],
    verdicts: Verdicts | None = None,
    *,
    first_trace: bool = False,
    batch: str = "",
    only: Collection[str] | None = None,
) -> list[Diagnostic]:
    """Compare a phase's networks with their graphs; those that differ are added to `networks.whole`.

    Parameters
    ----------
    plan, phase
        The networks' modes, what is trained, and where they are applied.
    networks
        Modules with real weights. Their modes are set; nothing else in them changes.
    inputs_of
        The number of a stream -> some of its images [B, C, H, W], where no verdict is known; None where there are none.
    verdicts
        Where verdicts are kept across processes.
    first_trace
        Whether no network of the phase has been traced yet: then tracing is tried in a child of this process.
    batch
        The key of the phase whose own weights and images are to be compared, rather than any of their shape.
    only
        Slots and versions, as strings, of the networks to compare; None for all.

    Returns
    -------
    list of Diagnostic
        KD0540 for what is called whole, KD0541 for attributes that change.

    Raises
    ------
    PlanError
        KD0542 where a network differs from itself, KD0508 where it mixes data types, KD0553 where it has no gradient.
    """
    half = phase.recipes[0].precision in HALF
    warnings: list[Diagnostic] = []
    _verify_branched(plan, phase, networks, half, verdicts, first_trace)
    for label, network, module in _foreign(plan, phase, networks):
        taps = _applied(phase, label)
        if not taps or (only is not None and label not in only):
            continue
        stream: int = taps[0].inputs[0].stream  # type: ignore[union-attr]
        inputs = _shape_of(plan, phase, stream) if not batch else None
        if inputs is None and (inputs := inputs_of(stream)) is None:
            continue
        content = refined(fingerprint(module), inputs.shape[1:], inputs.dtype)
        key = refined(content, len(inputs), half, batch)
        if (verdict := _known(key, verdicts)) is None:
            inputs = inputs_of(stream) if inputs.is_meta else inputs
            assert inputs is not None
            verdict = _kept(key, _compared(network, module, inputs, half, first_trace, taps[0].span), verdicts)
        if verdict.differs:
            networks.whole[label] = f"its graph gives other {verdict.differs}"
        sizes = batch_sizes(plan, phase, stream)
        if label not in networks.whole and not _one_for_all(sizes, module, inputs, content, verdicts):
            networks.whole[label] = "its control flow depends on the size of a batch"
        warnings += _about(network, verdict, networks.whole.get(label), real=bool(batch))
    return list({(w.code, w.message): w for w in warnings}.values())


def _compared(
    network: Network, module: nn.Module, inputs: Tensor, half: bool, first_trace: bool, span: Span | None
) -> Verdict:
    """The verdict on a network; `span` is where the phase reads it."""
    try:
        return compare(module, (inputs,), half, first_trace)
    except WrongTypes as problem:
        shapes = f"images {shown(tuple(inputs.shape))}"
        raise foreign("KD0508", span, problem, network=network.name, shapes=shapes) from problem
    except NoGradient as problem:
        cause = problem.__cause__ or problem
        raise foreign("KD0553", network.architecture.span or network.span, cause, network=network.name) from problem


def _about(network: Network, verdict: Verdict, whole: str | None, real: bool) -> list[Diagnostic]:
    """What a verdict says of a network; `whole` is why it is called whole, and `real` as for `_reported`."""
    span = network.architecture.span or network.span
    warnings = _reported(verdict, network.name, span, real)
    for path, reason in [("", whole)] if whole is not None else verdict.leaves:
        part = f"{network.name}.{path}".rstrip(".")
        warnings.append(diagnostic("KD0540", span, network=part, reason=reason))
    if verdict.lost and not verdict.attributes and not verdict.kept:
        warnings.append(diagnostic("KD0546", span, network=network.name, what=verdict.lost))
    if verdict.transient:
        warnings.append(diagnostic("KD0547", span, network=network.name, buffers=listing(verdict.transient)))
    return warnings + _changed_attributes(verdict, network.name, span)


def _changed_attributes(verdict: Verdict, network: str, span: Span | None) -> list[Diagnostic]:
    """KD0541 for each attribute whose change a resumed run would miss."""
    warnings = []
    for name, value in verdict.attributes:
        contained = value[:1] in "{[(" or value.startswith("deque(")
        if contained and not verdict.lost:
            continue  # it is emptied, or nothing reads it in a later step
        help = None
        if "Tensor" in value:
            what = "a buffer for each of its tensors" if contained else "a buffer"
            help = f"Register {what} in the constructor: `self.register_buffer(…)`."
        elif contained:
            help = "Keep what it holds in buffers: `self.register_buffer(…)` in the constructor."
        leaf = name.rpartition(".")[2]
        warnings.append(diagnostic("KD0541", span, help=help, network=network, name=name, leaf=leaf, value=value))
    return warnings


def has_users_code(module: nn.Module) -> bool:
    """Whether a network is the user's, or has branches of one that is."""
    return is_users(module) or (isinstance(module, Branched) and is_users(module.traces.plain))


def _verify_branched(
    plan: Plan, phase: Phase, networks: Networks, half: bool, verdicts: Verdicts | None, first_trace: bool
) -> None:
    """KD0516 for branches of a user's network whose graph, of which branches are made, gives something else."""
    slots = [(plan.networks[t.base.network], m) for t, m in zip(phase.trainees, networks.trainable, strict=True)]
    for network, module in [*slots, *((plan.networks[v.network], networks.of(v)) for v in frozen_versions(phase))]:
        if not (isinstance(module, Branched) and module.traces.fresh and is_users(module.traces.plain)):
            continue
        plain = module.traces.fresh()
        key = refined(fingerprint(plain), "plain", module.shape, half)
        if (verdict := _known(key, verdicts)) is None:
            verdict = _kept(key, compare(plain, (torch.randn(SAMPLES, *module.shape),), half, first_trace), verdicts)
        if verdict.differs or verdict.unstable:
            why = f"its graph gives other {verdict.differs or verdict.unstable}"
            span = network.spans.get("from", network.span)
            raise error("KD0516", span, help=TRACEABLE, network=network.name, point=module.at, why=why)


def _shape_of(plan: Plan, phase: Phase, stream: int) -> Tensor | None:
    """Inputs without numbers of the shape that is compared; None where only the data know it."""
    data = plan.data[phase.streams[stream].data]
    return example(data, SAMPLES).to("meta") if data.shape is not None else None


def _one_for_all(
    sizes: tuple[int, ...], module: nn.Module, inputs: Tensor, content: str | None, verdicts: Verdicts | None
) -> bool:
    """Whether the graph of a module is one for batches of all these sizes."""
    if len(sizes) == 1:
        return True
    key = refined(content, "sizes", sizes)
    if (verdict := _known(key, verdicts)) is None:
        verdict = _kept(key, Verdict("" if same_graph(module, inputs, sizes) else "results"), verdicts)
    return not verdict.differs


def _reported(verdict: Verdict, name: str, span: Span | None, real: bool) -> list[Diagnostic]:
    """KD0543, KD0552 for state and parameters outside of networks, KD0550 for no numbers; KD0542, raised, for others.

    `real` says whether inputs are those of training.
    """
    if verdict.unstable:
        raise error("KD0542", span, name=name, what=verdict.unstable)
    warnings = []
    if verdict.kept:
        warnings.append(diagnostic("KD0543", span, name=name, kept=listing(verdict.kept, 3)))
    if verdict.untrained:
        warnings.append(diagnostic("KD0552", span, name=name, parameters=listing(verdict.untrained, 3)))
    if verdict.broken:
        values = "the first batch" if real else "all values that were tried"
        warnings.append(diagnostic("KD0550", span, name=name, what=verdict.broken, values=values))
    return warnings


def verify_calls(
    parts: Sequence[fx.GraphModule],
    known: Callable[[], Mapping[str, Tensor]],
    half: bool,
    weights: bool,
    verdicts: Verdicts | None = None,
) -> list[Diagnostic]:
    """Call each of the user's functions in a graph twice, and as the graph does, on the values that it will get.

    Parameters
    ----------
    parts
        Of a phase, from inputs to the loss; each reads what the one before it returns. Buffers, and what code keeps,
        are afterwards as before.
    known
        Gives values of placeholders by name, where no verdict is known; others are drawn.
    half
        Whether the phase computes in half precision.
    weights
        Whether the networks have their weights. Without them their outputs are drawn.
    verdicts
        See `verify`.

    Returns
    -------
    list of Diagnostic
        KD0540 for a function whose node gives something else than the function, KD0543 for one that keeps state.

    Raises
    ------
    PlanError
        KD0542 for a function that differs from itself, KD0506 for one that mixes data types.
    """
    keys: dict[fx.Node, str | None] = {}
    for node in users_calls(parts):
        args = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        like = tree_map(lambda v: [tuple(v.shape), v.dtype] if isinstance(v, Tensor) else v, args)
        keys[node] = fingerprint(node.target, like, half, bool(node.meta.get("frozen")))
    seen = {node: verdict for node, key in keys.items() if (verdict := _known(key, verdicts)) is not None}
    new = keys.keys() - seen.keys()
    for node, args, kwargs in arguments_of(parts, new, known(), half, weights) if new else ():
        gradients = not node.meta.get("frozen")
        try:
            verdict = compare_call(node.target, args, kwargs, half, weights, gradients)  # type: ignore[arg-type]
        except WrongTypes as problem:
            raise at_call(node, problem) from problem
        seen[node] = _kept(keys[node], verdict, verdicts)
    warnings: list[Diagnostic] = []
    for node, verdict in seen.items():
        name, span = getattr(node.target, "__name__", str(node.target)), node.meta.get("span")
        warnings += _reported(verdict, name, span, weights)
        if verdict.differs:
            reason = f"its node gives other {verdict.differs}"
            warnings.append(diagnostic("KD0540", span, network=name, reason=reason))
    return list({(w.code, w.message): w for w in warnings}.values())


def _foreign(plan: Plan, phase: Phase, networks: Networks) -> list[tuple[str, Network, nn.Module]]:
    """Labels, declarations and modules of the networks with a user's code, in the mode of the phase."""
    users: list[tuple[str, Network, nn.Module]] = []
    for slot, (trainee, module) in enumerate(zip(phase.trainees, networks.trainable, strict=True)):
        if is_users(module):
            trainable_parameters(plan, phase, trainee, module)
            users.append((str(slot), plan.networks[trainee.base.network], module))
    for version in frozen_versions(phase):
        module = networks.of(version)
        if is_users(module):
            module.requires_grad_(False)
            module.train(plan.networks[version.network].mode == "train")
            users.append((str(version), plan.networks[version.network], module))
    return users


def users_calls(parts: Sequence[fx.GraphModule]) -> list[fx.Node]:
    """The calls of the user's functions in graphs."""
    nodes = [n for part in parts for n in part.graph.nodes if n.op == "call_function"]
    return [n for n in nodes if is_users_own(n.target)]


def _applied(phase: Phase, label: str) -> list[ir.Tap]:
    """Taps of a network that is applied to the images of a stream."""
    taps = []
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and not e.since and not e.submodule and len(e.inputs) == 1:
                of = str(e.of.slot) if isinstance(e.of, ir.InTraining) else str(e.of)
                only = e.inputs[0]
                if of == label and isinstance(only, ir.StreamField) and only.field == "inputs":
                    taps.append(e)
    return taps
