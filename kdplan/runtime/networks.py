"""Real networks from a plan: architectures with the weights of a version."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn

from kdplan.diagnostics.report import error
from kdplan.graph.branched import branch_state
from kdplan.graph.inspect import fresh
from kdplan.graph.phase_graph import Networks
from kdplan.graph.state import bind_buffer
from kdplan.graph.weights import fit, unreadable
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.expr import Version
from kdplan.ir.origins import Averaged, Copied, EmaOf, Ensembled, Fresh, Loaded, Merged, Perturbed
from kdplan.ir.plan import Network, Phase
from kdplan.ir.versions import ancestors, ema_copies, read_versions
from kdplan.nn.adapted import adapted_state
from kdplan.nn.ensemble import MEMBERS
from kdplan.nn.extra_state import is_extra
from kdplan.nn.weight_files import UnreadableError, WeightsFile, read_weights
from kdplan.runtime.store.atomic import digest_bytes
from kdplan.runtime.versions import Sources

State = dict[str, Tensor]


def materialise(sources: Sources, version: Version, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a version, with its weights, in eval mode.

    Raises
    ------
    PlanError
        KD0507 if a factory refuses its settings, KD0830 if weights do not fit the architecture, KD0831 if a file has
        changed, KD0832 if a snapshot is not there, KD0835 if a file cannot be read.
    StoreError
        If the artifact of a phase is missing or damaged.
    """
    network = sources.plan.networks[version.network]
    if version.phase is not None:
        return _filled(network, load(sources.weights(version)), f"{version}", late=None).to(device)
    return _start(sources, network).to(device)


def modules_of(sources: Sources, phase: Phase) -> Networks:
    """The networks that a phase trains and reads; equal versions are one module, but trained ones apart from frozen."""
    trainable: dict[str, nn.Module] = {}
    for trainee in phase.trainees:
        if str(trainee.base) not in trainable:
            trainable[str(trainee.base)] = materialise(sources, trainee.base)
    networks = Networks([trainable[str(trainee.base)] for trainee in phase.trainees])
    names = [trainee.base.network for trainee in phase.trainees]
    for name in ema_copies(sources.plan, phase):  # an EMA copy starts with the weights of its source
        origin = sources.plan.networks[name].origin
        assert isinstance(origin, EmaOf)
        networks.frozen[str(Version(name))] = deepcopy(networks.trainable[names.index(origin.network)])
    for version in read_versions(phase):
        if str(version) not in networks.frozen:
            networks.frozen[str(version)] = materialise(sources, version)
    return networks


def _start(sources: Sources, network: Network) -> nn.Module:
    """The network as its declaration leaves it."""
    match network.origin:
        case Fresh():
            return fresh(network)
        case Loaded(path, fingerprint, part):
            net = fresh(network)
            tensors = fit(network, net, _from_file(network, Path(path), fingerprint, part.entry)).tensors
            net.load_state_dict({**net.state_dict(), **tensors})
            return net
        case Copied(version, branch, grown):
            module = materialise(sources, version)
            state = module.state_dict()
            if branch is not None:
                state = branch_state(state, branch)
            if grown and network.architecture.name == ADAPTED:
                arguments = network.architecture.arguments
                state = adapted_state(state, [*arguments["behind"], *(arguments.get("entries") or [])[:1]])
            if grown:
                state = {**fresh(network).state_dict(), **state}
            return _filled(network, state, f"{version}", reset=True, late=dict(module.named_buffers()).keys())
        case EmaOf(name):
            return _filled(network, _start(sources, sources.plan.networks[name]).state_dict(), name, reset=True)
        case Merged(versions):
            return _filled(network, _merged(sources, network, versions), "the merged versions", reset=True)
        case Averaged(versions):
            states = [materialise(sources, v).state_dict() for v in versions]
            return _filled(network, _mean(states), "the averaged versions", reset=True)
        case Perturbed(versions, distance, seed):
            return _perturbed(materialise(sources, versions[0]), distance, seed)
        case Ensembled(versions):
            states = [materialise(sources, v).state_dict() for v in versions]
            together = {f"{MEMBERS}.{i}.{name}": t for i, state in enumerate(states) for name, t in state.items()}
            return _filled(network, together, "the ensemble's members", reset=True)


def _filled(
    network: Network, state: State, source: str, reset: bool = False, late: Collection[str] | None = ()
) -> nn.Module:
    """The network with a state's weights; with `reset`, except those that its declaration draws anew.

    `late` names buffers that training may have registered or given another shape or type; None for all but parameters.
    """
    net = fresh(network)
    if reset and network.reset:
        named = net.state_dict(keep_vars=True)
        drawn = {id(t) for n, t in named.items() if any(n.startswith(f"{p}.") for p in network.reset)}
        state = {**state, **{n: t.detach() for n, t in named.items() if id(t) in drawn}}  # under all of their names
    own = net.state_dict()
    buffers = state.keys() - dict(net.named_parameters()).keys()
    for name in buffers if late is None else buffers & {*late}:
        if is_extra(name):
            continue
        if name not in own or (own[name].shape, own[name].dtype) != (state[name].shape, state[name].dtype):
            bind_buffer(net, name, torch.empty_like(state[name]))
    try:
        net.load_state_dict(state)
    except RuntimeError as problem:
        lines = [line.strip() for line in str(problem).splitlines()[1:]] or [str(problem)]
        reason = " ".join(lines)[:400]
        raise error("KD0830", network.span, source=source, network=network.name, reason=reason) from problem
    return net


def _from_file(network: Network, path: Path, fingerprint: str, entry: str) -> WeightsFile:
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    if not content or (fingerprint and not digest_bytes(content).startswith(fingerprint)):
        raise error("KD0831", network.span, path=path, network=network.name)
    try:
        return read_weights(content, entry)
    except UnreadableError as problem:
        raise unreadable(network, path.name, network.span, problem) from problem


def _merged(sources: Sources, network: Network, versions: list[Version]) -> State:
    """Each tensor from the version whose training changed it since the versions' common ancestor."""
    pasts = [[str(v) for v in ancestors(sources.plan, version)] for version in versions]
    common = next((v for v in ancestors(sources.plan, versions[0]) if all(str(v) in past for past in pasts)), None)
    if common is None:
        raise error("KD0833", network.span, network=network.name, reason="its parts do not start from one version")
    start = materialise(sources, common).state_dict()
    merged = dict(start)
    taken: dict[str, Version] = {}
    for version in versions:
        for name, tensor in materialise(sources, version).state_dict().items():
            if torch.equal(tensor, start[name]):
                continue
            if name in taken and not torch.equal(tensor, merged[name]):
                reason = f"`{name}` was trained in {taken[name]} and in {version}"
                raise error("KD0833", network.span, network=network.name, reason=reason)
            merged[name], taken[name] = tensor, version
    return merged


def _perturbed(net: nn.Module, distance: float, seed: int) -> nn.Module:
    """The network with θ + distance · v / ‖v‖, v normal from the seed; buffers stay. Drawn and added in float64."""
    random = torch.Generator().manual_seed(seed)
    own = dict(net.named_parameters())
    drawn = [torch.randn(p.shape, generator=random, dtype=_wide(p)) for p in own.values()]
    length = torch.stack([v.abs().square().sum() for v in drawn]).sum().sqrt()
    with torch.no_grad():
        for p, v in zip(own.values(), drawn, strict=True):
            p.copy_(p.to(_wide(p)) + distance * v / length)
    return net


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64


def _mean(states: list[State]) -> State:
    """The mean of floating-point tensors, in float64; counters and extra state from the first."""
    mean: State = {}
    for name, first in states[0].items():
        if (first.is_floating_point() or first.is_complex()) and not is_extra(name):
            mean[name] = torch.stack([s[name].to(_wide(first)) for s in states]).mean(0).to(first.dtype)
        else:
            mean[name] = first
    return mean
