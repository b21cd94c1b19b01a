"""From a trained network to a plain one: no branches, adapters or gates, checked equal, saved without pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdplan.graph.prune import needed
from kdplan.graph.structure import tensors
from kdplan.graph.taps import LeafTaps, TapError
from kdplan.graph.trace import Traced, trace, value_at
from kdplan.graph.tracer import ROOT
from kdplan.graph.written import writes_undone


class DeployError(RuntimeError):
    """The deployed network does not do what the trained one does."""


def deploy(module: nn.Module, tap: str, *example: Any) -> nn.Module:
    """The network that computes one tap in eval mode, and nothing else.

    Returns the module itself where the tap is its whole output, so that it keeps exactly its architecture; otherwise a
    GraphModule with the module's own names for what is left. The module's modes are as before afterwards.

    Raises
    ------
    TapError
        If there is no such tap.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> sorted(deploy(net, "0", torch.zeros(1, 3)).state_dict())
    ['0.bias', '0.weight']
    >>> deploy(net, "logits", torch.zeros(1, 3)) is net
    True
    """
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        traced = trace(module, *example)
        if tap not in traced.taps:
            raise TapError(tap, traced.taps)
        location = traced.taps[tap]
        whole_output = traced.calls[-1].output
        kept = needed(traced.graph_module, [location.node])
        if isinstance(whole_output, fx.Node) and location == traced.taps.get("output"):
            return module
        if location.inner is not None:
            return _eval_inside(traced, location.node, location.inner)
        return _cut(traced, kept, location.node, location.index)
    finally:
        for m, mode in modes.items():
            m.training = mode


def _eval_inside(traced: Traced, node: fx.Node, inner: str) -> nn.Module:
    """A value inside a leaf: the leaf has to run as it is."""
    path = str(node.target)
    box = nn.Module()
    box.add_module("leaf", traced.root.get_submodule(path))
    box.add_module("taps", LeafTaps(traced.root.get_submodule(path), [inner]))
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    kept = needed(traced.graph_module, [node])
    for n in traced.graph.nodes:
        if n in kept and n.op != "output":
            mapped[n] = graph.node_copy(n, mapped.__getitem__)
    mapped[node].target = "taps"
    box.add_module(ROOT, traced.module)
    graph.output(graph.call_function(value_at, (mapped[node], (1,))))
    return fx.GraphModule(box, graph).eval()


def _cut(traced: Traced, kept: set[fx.Node], node: fx.Node, index: tuple[int | str, ...]) -> fx.GraphModule:
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    for n in traced.graph.nodes:
        if n not in kept or n.op == "output":
            continue
        mapped[n] = graph.node_copy(n, mapped.__getitem__)
        if n.op in ("call_module", "get_attr"):
            mapped[n].target = str(n.target).removeprefix(ROOT + ".")
        mapped[n].meta = {}
    graph.output(graph.call_function(value_at, (mapped[node], index)) if index else mapped[node])
    root = nn.Module()
    for name, child in traced.module.named_children():
        root.add_module(name, child)
    for name, p in traced.module.named_parameters(recurse=False):
        root.register_parameter(name, p)
    for name, b in traced.module.named_buffers(recurse=False):
        root.register_buffer(name, b)
    if any(n.op == "call_module" and n.target == ROOT for n in traced.graph.nodes):
        root.add_module(ROOT, traced.module)
    if traced.constants:
        root.add_module("constants", traced.root.get_submodule("constants"))
    gm = fx.GraphModule(root, graph)
    gm.train(False)
    return gm


def verify_equal(a: nn.Module, b: nn.Module, *example: Tensor, tolerance: float = 0.0) -> float:
    """The largest difference of two networks' outputs in eval mode on random inputs like `example`.

    Raises
    ------
    DeployError
        If it is larger than `tolerance`, or the outputs differ in shape.

    Examples
    --------
    >>> net = nn.Linear(3, 2)
    >>> verify_equal(net, net, torch.zeros(4, 3))
    0.0
    """
    generator = torch.Generator().manual_seed(0)
    device = next(iter([p.device for p in a.parameters()]), torch.device("cpu"))
    inputs = [
        torch.randn(x.shape, generator=generator).to(device, x.dtype) if x.is_floating_point() else x.to(device)
        for x in example
    ]
    results = []
    for net in (a, b):
        modes = {m: m.training for m in net.modules()}
        net.eval()
        with torch.no_grad(), writes_undone(net):
            results.append([v.clone() for v in tensors(net(*(x.clone() for x in inputs)))])
        for m, mode in modes.items():
            m.training = mode
    shapes = [[tuple(v.shape) for v in r] for r in results]
    if shapes[0] != shapes[1]:
        raise DeployError(f"outputs have the shapes {shapes[1]}, not {shapes[0]}")
    worst = max((float((x - y).abs().max()) for x, y in zip(*results, strict=True) if x.numel()), default=0.0)
    if not worst <= tolerance:
        raise DeployError(f"outputs differ by up to {worst:.3g}")
    return worst


def save(module: nn.Module, folder: Path, about: dict[str, object]) -> None:
    """Write `model.safetensors` and `model.json` (what `about` says, and every tensor's shape and type).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     save(nn.Linear(3, 2), Path(d), {"model": "linear"})
    ...     sorted(p.name for p in Path(d).iterdir())
    ['model.json', 'model.safetensors']
    """
    from safetensors.torch import save as as_bytes

    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, value in module.state_dict().items():
        address = value.data_ptr() if value.numel() else id(value)
        if address in first and state[first[address]].shape == value.shape:
            shared[name] = first[address]
        else:
            first[address] = name
            state[name] = value.detach().cpu().contiguous().clone()
    # Not save_file, whose files only their owner may read.
    (folder / "model.safetensors").write_bytes(as_bytes(state))
    tensors = {n: {"shape": list(v.shape), "dtype": str(v.dtype).removeprefix("torch.")} for n, v in state.items()}
    text = json.dumps({**about, "tensors": tensors, "shared": shared}, indent=2, sort_keys=True)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")


def load_into(module: nn.Module, folder: Path) -> None:
    """Read what `save` wrote into a module of the same architecture; names must fit exactly.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as d:
    ...     save(nn.Linear(3, 2), Path(d), {})
    ...     load_into(nn.Linear(3, 2), Path(d))
    """
    from safetensors.torch import load_file

    state = load_file(str(folder / "model.safetensors"))
    about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for name, other in about["shared"].items():
        state[name] = state[other]
    module.load_state_dict(state)


def export_program(module: nn.Module, path: Path, *example: Tensor) -> torch.export.ExportedProgram:
    """A `torch.export` program of the module in eval mode with a free batch size, written to `path` (`.pt2`)."""
    modes = {m: m.training for m in module.modules()}
    module.eval()
    try:
        # Sizes 0 and 1 are special to export: a free batch size needs an example of at least two.
        inputs = tuple(torch.cat([x, x]) if x.dim() and x.shape[0] == 1 else x for x in example)
        batch = torch.export.Dim("batch", min=1)
        shapes = [{0: batch} if x.dim() else None for x in inputs]
        names = list(_argument_names(module))[: len(inputs)]
        program = torch.export.export(module, inputs, dynamic_shapes=dict(zip(names, shapes, strict=True)))
        torch.export.save(program, path)
        return program
    finally:
        for m, mode in modes.items():
            m.training = mode


def _argument_names(module: nn.Module) -> list[str]:
    import inspect

    return [p.name for p in inspect.signature(module.forward).parameters.values()]


def parameter_count(module: nn.Module) -> int:
    """Number of parameters.

    Examples
    --------
    >>> parameter_count(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in module.parameters())


__all__ = [
    "DeployError",
    "deploy",
    "export_program",
    "load_into",
    "parameter_count",
    "save",
    "verify_equal",
]
