"""Steps as graphs: what the CPU starts kernel by kernel is recorded once, and a GPU repeats it at one order.

A recording repeats kernels with the addresses and numbers that they had. So batches are copied into buffers that stay,
learning rates and step counters are tensors, and random layers draw from the device's generator, which is seeded before
each repetition. What a recording cannot repeat (Python's decisions, draws on the CPU, a buffer that becomes another
tensor) is found when it is made, and ends the phase with an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.plan import Recipe
from kdplan.runtime.first_batch import draws, same_draws
from kdplan.runtime.streams import HOST, Batch

WARM_UP = 3
"""Steps of each shape that run as ever, before one is recorded: libraries choose kernels, optimizers make state."""
MOST = 4
"""Shapes of batches that are recorded; batches of others run as ever."""


def recorded(recipe: Recipe, device: torch.device) -> bool:
    """Whether the steps of a phase are recorded; only a GPU repeats them.

    >>> from kdplan.ir.plan import Item
    >>> recorded(Recipe(Item("sgd"), compile="graphs"), torch.device("cpu"))
    False
    """
    return recipe.compile == "graphs" and device.type == "cuda"


def step_graphs(
    phase: str, work: Callable[[Batch], None], graph: PhaseGraph, device: torch.device, recipe: Recipe
) -> StepGraphs | None:
    """What runs the steps of a phase as CUDA graphs; None for a phase whose steps are not recorded."""
    if not recorded(recipe, device):
        return None
    span = recipe.spans.get("compile", recipe.span)
    graphs = StepGraphs(phase, CudaRecorder(device), work, graph.state, device, span)
    graphs.look([graph.root])
    return graphs


class Recorder(Protocol):
    """What records the work of a device."""

    def aside(self, work: Callable[[], None]) -> None:
        """Do some work as it will be recorded, without recording it."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record some work without doing it; the result does it, as often as it is called."""


class CudaRecorder:
    """Records on a stream of its own; all graphs share one pool of memory, since one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
        self.pool = torch.cuda.graph_pool_handle()

    def aside(self, work: Callable[[], None]) -> None:
        """Do some work on the stream of the recordings."""
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        with torch.cuda.stream(self.stream):
            work()
        main.wait_stream(self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record some work as a CUDA graph. Other threads, such as one that writes a checkpoint, may go on."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            work()
        replay: Callable[[], None] = graph.replay
        return replay


@dataclass
class _Shape:
    """Batches of one shape, with the modules in one mode."""

    steps: int = 0
    inputs: Batch = field(default_factory=dict)
    """The buffers from which the recording reads."""
    replay: Callable[[], None] | None = None


class StepGraphs:
    """Runs the steps of one phase: the first of each shape as ever, all later ones as recordings.

    Parameters
    ----------
    phase : str
    recorder : Recorder
    work : callable
        All that the device does in a step, from a batch; it reads `counters`.
    state : callable
        Every tensor by name that a step changes. A step must change their numbers, not the tensors.
    device : torch.device
    span : Span or None
        Of the recipe's `compile`, for errors.

    Attributes
    ----------
    counters : dict
        Tensors without dimensions that the work reads: the step counters of losses, and `at`, the step's number.
    """

    def __init__(
        self,
        phase: str,
        recorder: Recorder,
        work: Callable[[Batch], None],
        state: Callable[[], Mapping[str, Tensor]],
        device: torch.device,
        span: Span | None = None,
    ) -> None:
        self.phase, self.recorder, self.work, self.state, self.span = phase, recorder, work, state, span
        self.counters: dict[str, Tensor] = {name: torch.zeros((), device=device) for name in STEP_COUNTERS}
        self.counters["at"] = torch.zeros((), dtype=torch.int64, device=device)
        self._shapes: dict[tuple[object, ...], _Shape] = {}
        self._mode: int = 0

    @property
    def recorded(self) -> int:
        """How many recordings there are."""
        return sum(shape.replay is not None for shape in self._shapes.values())

    def look(self, modules: Iterable[nn.Module]) -> None:
        """Note the modes of modules: a recording is good for those that it was made in."""
        self._mode = hash(tuple(m.training for module in modules for m in module.modules()))

    def forget(self) -> None:
        """Drop all recordings, where tensors have become others."""
        self._shapes.clear()

    def step(self, batch: Batch, counters: Mapping[str, float]) -> None:
        """One step. Generators are seeded and learning rates set before.

        Raises
        ------
        PlanError
            KD1022 where a step cannot be recorded.
        """
        for name, value in counters.items():
            self.counters[name].fill_(value)
        inputs = {name: t for name, t in batch.items() if not name.startswith(HOST)}
        key = (self._mode, *((name, t.shape, t.dtype) for name, t in sorted(inputs.items())))
        shape = self._shapes.setdefault(key, _Shape())
        if shape.replay is not None:
            for name, tensor in shape.inputs.items():
                tensor.copy_(inputs[name], non_blocking=True)
        elif shape.steps < WARM_UP or self.recorded >= MOST:
            shape.steps += 1
            self.recorder.aside(lambda: self.work(batch))
            return
        else:
            shape.inputs = {name: t.clone() for name, t in inputs.items()}
            shape.replay = self._record(shape.inputs)
        shape.replay()

    def _record(self, inputs: Batch) -> Callable[[], None]:
        """Record a step, and look whether a repetition will do the same."""
        addresses, drawn = self._addresses(), draws()
        try:
            replay = self.recorder.record(lambda: self.work(inputs))
        except PlanError:
            raise
        except RuntimeError as problem:
            reason = next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)
            raise self._cannot(f"{reason[:300].rstrip('.')}") from problem
        if not same_draws(drawn, draws()):
            raise self._cannot("it draws random numbers on the CPU, which would be the same in every step")
        after = self._addresses()
        if changed := [name for name, address in after.items() if addresses.get(name) != address]:
            names = dict.fromkeys(n.removeprefix("buffer/").removeprefix("nets.") for n in changed)
            raise self._cannot(f"it makes another tensor of {listing(names, 4)}")
        return replay

    def _addresses(self) -> dict[str, object]:
        return {n: (t.data_ptr(), t.shape, t.dtype) for n, t in self.state().items()}

    def _cannot(self, reason: str) -> PlanError:
        return error("KD1022", self.span, phase=self.phase, reason=reason)
