"""Phases that are trained in pieces: of each parameter, gradient and optimizer state a process keeps its part (FSDP2).

Before the first step a phase is whole, on the CPU, and its state is loaded and compared as ever. Then `fully_shard` of
torch cuts the trained parameters along their first dimension; blocks of modules are gathered while they compute. Frozen
parameters stay whole on every device, as do parameters of one number. What rank 0 writes or validates is gathered
first, by the names that it has everywhere: a checkpoint does not show how many processes made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from kdplan.diagnostics.report import diagnostic, error, listing
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.runtime import parts
from kdplan.runtime.averages import Averages
from kdplan.runtime.optimise import Optimisers
from kdplan.runtime.parallel import Parallel, Trained
from kdplan.runtime.store.atomic import Content, clear, make_folder
from kdplan.runtime.store.errors import writing
from kdplan.runtime.store.processes import temporary
from kdplan.runtime.streams import Batch

BLOCKS = 16
"""A block has at least so small a part of all trained parameters: many small sums take longer than a few."""


class FullyShard(Parallel):
    """Gradients of a step by processes that each keep a part of every parameter."""

    early = True
    cut = False
    """Whether the phase is in pieces by now."""
    _folder: Path | None = None
    """Where ranks have written their parts of the last large checkpoint."""

    def _wrap(self, device: torch.device) -> nn.Module | None:
        if self.ranks.through_host and device.type != "cpu":
            raise error("KD0986", self.span, phase=self.phase, what="processes that share a GPU")
        return None

    def _keeping(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The trainable graph on a shard; the last one's backward pass sums."""
        if self.cut and not self._alone:
            self.wrapped.set_requires_gradient_sync(self._last)  # type: ignore[union-attr, operator]
        return self.call(**inputs)

    # ---- before the first step

    def prepare(self, training: Trained, batch: Batch) -> None:
        """Compare the first batch while the phase is whole; then cut it.

        Raises
        ------
        PlanError
            KD0987 where torch cannot cut it, and what comparing raises.
        """
        if self.cut:
            return
        problem: Exception | None = None
        try:
            if training.first is not None:
                self._compared_whole(training, batch)
        except Exception as e:
            problem = e
        self.meet(problem)
        tensors, plain = training.checkpoint()
        held = {
            name: t.detach() for name, t in tensors.items()
        }  # of their own: torch changes parameters where they are
        try:
            self._cut()
        except (ValueError, RuntimeError, NotImplementedError, AssertionError) as e:
            problem = error("KD0987", self.span, phase=self.phase, reason=str(e).splitlines()[0].rstrip("."))
        self.meet(problem)
        job = training.job
        options = {"foreach": False} if self.single else {}
        training.optimisers = Optimisers(self.graph, job.recipes, training.per_epoch, training.total, options)
        training.averages = Averages(self.graph, training.recipe.ema)
        training.load(held, plain)

    def _compared_whole(self, training: Trained, batch: Batch) -> None:
        """Compare on the phase's device, where it fits there."""
        slots = self.division.slots(training.step)
        try:
            _bring(self.graph, training.job.device)
            self._try(training.of_shard, slots[0].number, next(self.pieces(batch, slots)))
        except torch.OutOfMemoryError:
            notice = diagnostic("KD0551", None, phase=self.phase)
            training.job.events.note(f"{notice.code}: {notice.message}")
            training.first = None
        finally:
            _bring(self.graph, torch.device("cpu"))

    def _cut(self) -> None:
        """Cut the trained parameters, and have every module and list know the parts."""
        graph, device = self.graph, self.device
        trained = {id(p): p for p in graph.named_trainable().values()}
        self.single = [p for p in trained.values() if p.dim() == 0]
        whole = graph.trainable_graph
        ignored = {p for p in whole.parameters() if id(p) not in trained or p.dim() == 0}
        owners = [(m, n, p) for m in whole.modules() for n, p in m._parameters.items() if p is not None]
        mesh = init_device_mesh(device.type, (self.ranks.size,))
        for block in blocks(whole, {i for i, p in trained.items() if p.dim()}):
            fully_shard(block, mesh=mesh, ignored_params=ignored)
        fully_shard(whole, mesh=mesh, ignored_params=ignored)
        self.wrapped = whole
        pieces = {id(p): module._parameters[name] for module, name, p in owners}
        for module in {m: None for root in _roots(graph) for m in root.modules()}:
            for name, parameter in module._parameters.items():
                if id(parameter) in pieces:
                    module._parameters[name] = pieces[id(parameter)]
        graph.trainable = [{n: pieces.get(id(p), p) for n, p in own.items()} for own in graph.trainable]  # type: ignore[misc]
        graph.adapters = {n: pieces.get(id(p), p) for n, p in graph.adapters.items()}  # type: ignore[misc]
        _bring(graph, device)
        self._mesh, self.cut = mesh, True
        self._kept_whole: dict[str, Tensor] = {}
        self._gathered: set[str] = set()
        self._step = -1

    # ---- a step

    def _begin(self) -> None:
        self.meet()

    def _end(self) -> None:
        """Sum the gradients of parameters of one number, which are no parts."""
        if self.single:
            row = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in self.single])
            for parameter, gradient in zip(self.single, self.ranks.sum(row) / self.ranks.size, strict=True):
                parameter.grad = gradient.clone()

    def all_agree(self, fine: bool) -> bool:
        """Whether something holds on every rank."""
        return all(row[0] for row in self.ranks.gather_numbers([fine]))

    # ---- whole tensors

    def whole(self, tensors: dict[str, Tensor], step: int, keep: bool) -> dict[str, Tensor]:
        """The same tensors, whole; on ranks that do not `keep` them nothing is left of those that are in parts.

        Rank 0 orders it; what was gathered after this step is not gathered again.
        """
        if not self.cut:
            return tensors
        pieces = {name: t for name, t in sorted(tensors.items()) if isinstance(t, DTensor)}
        if self._step != step:
            self._step, self._gathered, self._kept_whole = step, set(), {}
        if missing := [name for name in pieces if name not in self._gathered]:
            self.ranks.order("collect", optimisers=any(name.startswith("optim/") for name in missing))
            for name in missing:
                tensor = pieces[name].full_tensor()
                if keep:
                    self._kept_whole[name] = tensor.detach().cpu()
            self._gathered |= {*missing}
        return {name: t for name, t in tensors.items() if name not in pieces} | {
            name: self._kept_whole[name] for name in pieces if name in self._kept_whole
        }

    def divided(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse: this rank's parts of whole tensors of a checkpoint."""
        if not self.cut:
            return tensors
        self._step = -1
        named = self.graph.named_trainable()
        averaged = [dict(network.state_dict(keep_vars=True)) for network in self.graph.networks]

        def like(path: str) -> Tensor | None:
            kind, _, name = path.partition("/")
            if kind == "optim":
                return named.get(name.partition("/")[2].rpartition("/")[0])
            if kind == "average":
                slot, _, inner = name.partition("/")
                return averaged[int(slot)].get(inner)
            return named.get(name) if kind == "model" else None

        return {name: self._part(tensor, like(name)) for name, tensor in tensors.items()}

    def _part(self, tensor: Tensor, like: Tensor | None) -> Tensor:
        if not isinstance(like, DTensor) or tensor.shape != like.shape or isinstance(tensor, DTensor):
            return tensor
        pieces = tensor.chunk(self.ranks.size)
        own = pieces[self.ranks.rank] if self.ranks.rank < len(pieces) else tensor[:0]
        return DTensor.from_local(
            own.to(self.device), self._mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )

    # ---- large checkpoints

    def written(self, training: Trained) -> dict[str, Content]:
        """Files with the parts that ranks have of a large checkpoint, if all of them see the store's folder.

        Raises
        ------
        StoreUnwritable
            Where one cannot write.
        PlanError
            KD0826 for weights that are not finite.
        """
        self.tidy()
        tensors, _ = training.state()
        if not self.cut or not parts.is_large({n: t for n, t in tensors.items() if isinstance(t, DTensor)}):
            return {}
        self._folder = temporary(training.job.work.checkpoints / f"parts-{training.step}")
        make_folder(self._folder)
        self.ranks.order("parts", folder=str(self._folder.absolute()))
        with writing(self._folder):
            broken = self._put(tensors, self._folder)
        if broken:
            names = listing([n.partition("/")[2] for n in broken], 4)
            raise error("KD0826", self.span, phase=self.phase, names=names, step=training.step)
        return {file.name: parts.linked(file) for file in sorted(self._folder.iterdir())}

    def tidy(self) -> None:
        if self._folder is not None:
            clear(self._folder)
        self._folder = None

    def write_parts(self, training: Trained, folder: str) -> None:
        with suppress(OSError):  # rank 0 has it, too
            self._put(training.state()[0], Path(folder))

    def _put(self, tensors: Mapping[str, Tensor], folder: Path) -> list[str]:
        """Write this rank's parts, where all ranks see the folder and all weights are finite; else names of others."""
        own = {name: t for name, t in sorted(tensors.items()) if isinstance(t, DTensor)}
        finite = [bool(t.to_local().isfinite().all()) for t in own.values()]
        sees, *rows = zip(*self.ranks.gather_numbers([folder.is_dir(), *finite]), strict=True)
        broken = [n for n, row in zip(own, rows, strict=True) if n.startswith("model/") and not all(row)]
        if all(sees) and not broken:
            parts.write_parts(own, folder)
        return broken

    def refresh(self, networks: Sequence[nn.Module]) -> None:
        """Load the weights of the last `whole` into copies of the trained networks."""
        if not self.cut:
            return
        names = {id(p): name for name, p in self.graph.named_trainable().items()}
        for network, copy in zip(self.graph.networks, networks, strict=True):
            state = network.state_dict(keep_vars=True)
            copy.load_state_dict(
                {
                    n: self._kept_whole[f"model/{names[id(t)]}"] if isinstance(t, DTensor) else t
                    for n, t in state.items()
                }
            )


def blocks(graph: nn.Module, trained: set[int]) -> Iterator[nn.Module | list[nn.Module]]:
    """Modules that a graph calls one after another, each block with a fair part of all parameters.

    A module that is called twice is a block of its own. What owns a parameter that others own or read, too, is in none.
    """
    nodes: Iterable[Any] = getattr(getattr(graph, "graph", None), "nodes", ())
    calls = Counter(str(n.target) for n in nodes if n.op == "call_module")
    owners = Counter(id(p) for m in graph.modules() for p in m._parameters.values() if p is not None)
    for node in nodes:
        if node.op == "get_attr":
            value = graph
            for word in str(node.target).split("."):
                value = getattr(value, word)
            owners[id(value)] += 1
    modules = {target: graph.get_submodule(target) for target in calls}
    own = {t: [p for p in m.parameters() if id(p) in trained] for t, m in modules.items()}
    fitting = [t for t, ps in own.items() if ps and all(owners[id(p)] == 1 for p in ps)]
    fair = sum(p.numel() for t in fitting for p in own[t]) // BLOCKS
    block: list[nn.Module] = []
    size = 0
    for target in fitting:
        if calls[target] > 1:
            yield modules[target]
            continue
        block.append(modules[target])
        size += sum(p.numel() for p in own[target])
        if size >= fair:
            yield block
            block, size = [], 0
    if block:
        yield block


def validated_on(
    networks: Sequence[nn.Module], device: torch.device, validate: Callable[[], dict[str, float]] | None
) -> Callable[[], dict[str, float]] | None:
    """A validation of copies that are on the device only meanwhile."""
    if validate is None:
        return None

    def validated() -> dict[str, float]:
        for network in networks:
            network.to(device)
        try:
            return validate()
        finally:
            for network in networks:
                network.to("cpu")

    return validated


def _roots(graph: PhaseGraph) -> list[nn.Module]:
    frozen = [graph.frozen] if graph.frozen is not None else []
    return [graph.root, graph.trainable_graph, *graph.networks, *frozen]


def _bring(graph: PhaseGraph, device: torch.device) -> None:
    """Have all that is whole on a device."""
    for module in {m: None for root in _roots(graph) for m in root.modules()}:
        held: Mapping[str, Tensor | None] = {**module._parameters, **module._buffers}
        for tensor in held.values():
            if tensor is not None and not isinstance(tensor, DTensor) and tensor.device != device:
                tensor.data = tensor.data.to(device)
