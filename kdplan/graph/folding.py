"""Batch norms of frozen networks, folded into the convolutions before them.

In evaluation mode batch norm multiplies each channel by a number and adds another, and so does a convolution:
``gamma (w * x + b - mean) / sqrt(var + eps) + beta`` is a convolution with the weights ``s w`` and the bias
``s (b - mean) + beta``, where ``s = gamma / sqrt(var + eps)``. The numbers are computed in float64.

>>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
>>> one = folded_module(net[0], net[1])
>>> x = torch.ones(1, 1, 3, 3)
>>> torch.allclose(one(x), net(x), atol=1e-6), one.bias is not None
(True, True)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.graph.law import check_graph
from kdplan.graph.module import copy_of
from kdplan.ir.plan import Phase

FORWARD = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
BOX = "folded"
"""The root's part that has the folded convolutions."""


@dataclass
class Foldings:
    """What of a frozen graph can be folded.

    Attributes
    ----------
    pairs
        Names of a batch norm's node and of its convolution's.
    why
        What keeps the other batch norms as they are, and how often.
    """

    pairs: dict[str, str] = field(default_factory=dict)
    why: Counter[str] = field(default_factory=Counter)


def foldings(gm: fx.GraphModule, frozen: fx.GraphModule, training: Mapping[str, bool], changing: set[int]) -> Foldings:
    """The batch norms of a frozen graph that can be folded.

    Parameters
    ----------
    gm
        The phase's whole graph.
    frozen
        Its frozen part.
    training
        The modes of modules while the phase trains, by path.
    changing
        Identities of the tensors that a step may change, and of those that code may.
    """
    read = {id(t) for n in gm.graph.nodes if n.op == "get_attr" and (t := _attribute(gm, str(n.target))) is not None}
    result = Foldings()
    for node in frozen.graph.nodes:
        norm = _module(frozen, node, NORMS)
        if norm is None:
            continue
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        conv = _module(frozen, source, (*FORWARD, *TRANSPOSED)) if isinstance(source, fx.Node) else None
        if conv is None or not isinstance(source, fx.Node):
            result.why["no convolution stands before them"] += 1
        elif training.get(str(node.target), norm.training) or not isinstance(norm.running_mean, Tensor):
            result.why["they take the statistics of each batch"] += 1
        elif len(source.users) > 1:
            result.why["what their convolutions give is read elsewhere too"] += 1
        elif any(id(t) in changing or id(t) in read for m in (conv, norm) for t in _tensors(m)):
            result.why["their numbers may change"] += 1
        elif _is_changed(conv) or _is_changed(norm) or len(source.args) != 1 or source.kwargs:
            result.why["they or their convolutions have hooks or further arguments"] += 1
        else:
            result.pairs[node.name] = source.name
    return result


def nothing_folded(phase: Phase, result: Foldings | None) -> PlanError:
    """KD1008, for a phase in which `fold = true` has no effect."""
    recipe = phase.recipes[0]
    why = "the phase has no frozen network that runs in its steps"
    if result is not None:
        why = "its frozen networks have no batch norm"
        if result.why:
            stay = listing([f"{count} cannot be since {reason}" for reason, count in result.why.items()])
            why = f"of its frozen batch norms {stay}"
    return error("KD1008", recipe.spans.get("fold", recipe.span), phase=phase.name, why=why.replace("`", ""))


def fold(root: nn.Module, frozen: fx.GraphModule, pairs: Mapping[str, str]) -> fx.GraphModule:
    """The frozen graph with the batch norms of `pairs` folded; `root` gets the new convolutions.

    The networks themselves stay as they are. A value keeps the name of its batch norm's node.
    """
    gm = copy_of(frozen)
    nodes = {n.name: n for n in gm.graph.nodes}
    box = nn.Module()
    for name, source in pairs.items():
        norm, conv = nodes[name], nodes[source]
        merged = folded_module(gm.get_submodule(str(conv.target)), gm.get_submodule(str(norm.target)))
        box.add_module(name, merged)
        norm.target, norm.args = f"{BOX}.{name}", conv.args
        gm.graph.erase_node(conv)
    for owner in (root, gm):
        owner.add_module(BOX, box)
    gm.recompile()
    check_graph(gm.graph, gm, before=frozen.graph, pruned=True)
    return gm


@torch.no_grad()
def folded_module(conv: nn.Module, norm: nn.Module) -> nn.Module:
    """A convolution that gives what `norm` in evaluation mode gives of `conv`, both of them left as they are."""
    assert isinstance(conv, (*FORWARD, *TRANSPOSED)) and isinstance(norm, NORMS)
    assert norm.running_mean is not None and norm.running_var is not None
    weight = conv.weight.double()
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale * norm.weight.double() if norm.weight is not None else scale
    bias = -norm.running_mean.double() if conv.bias is None else conv.bias.double() - norm.running_mean.double()
    bias = bias * scale + (norm.bias.double() if norm.bias is not None else 0)
    # A transposed convolution has its outputs second, those of one group for the inputs of that group.
    rows = scale[:, None].expand(-1, weight.shape[1])
    if isinstance(conv, TRANSPOSED):
        rows = scale.view(conv.groups, -1).repeat_interleave(weight.shape[0] // conv.groups, 0)
    merged = copy.deepcopy(conv)
    product = weight * rows.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))
    merged.weight = nn.Parameter(torch.empty_like(conv.weight).copy_(product), requires_grad=False)
    merged.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    return merged.eval()


def _module(gm: fx.GraphModule, node: fx.Node, kinds: Collection[type[nn.Module]]) -> nn.Module | None:
    """The module that a node calls, if it is exactly of one of these classes: another may compute anything."""
    module = gm.get_submodule(str(node.target)) if node.op == "call_module" else None
    return module if type(module) in kinds else None


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _is_changed(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _attribute(gm: fx.GraphModule, path: str) -> object:
    box, _, leaf = path.rpartition(".")
    return getattr(gm.get_submodule(box), leaf, None)
