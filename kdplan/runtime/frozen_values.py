"""Frozen values in the store: computed once a sample, read by index in every step.

Stored values are reused: the computation of a value begins at the stored values before it. So a network runs once for
all phases that read it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, fx

from kdplan.data.loader import Loader
from kdplan.diagnostics.report import error
from kdplan.graph.cacheable import content_of
from kdplan.graph.module import outputs_of, subset
from kdplan.graph.phase_graph import PhaseGraph, StoredValue
from kdplan.ir.plan import Phase, Plan
from kdplan.passes.keys import view_content
from kdplan.runtime.checkpoint import tensor_file
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.gpu.arithmetic import HALF, frozen_precision, tf32
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.store import Store
from kdplan.runtime.store.values import Values

SHARD = 128 << 20
"""Bytes of one shard: at most so much must a stopped run compute again."""
PART_HELD = 4
"""A GPU holds stored values itself that take at most this part of its free memory."""
_KEY = "value"
READ = "read/"
"""Before the names of stored values in a batch."""


class Rows:
    """One stored value ``[N, ...]``, in shards of equal length that stay on the disk until they are read."""

    def __init__(self, files: list[Path]) -> None:
        self.shards = [_mapped(f) for f in files]
        self.per = len(self.shards[0])

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return sum(shard.numel() * shard.element_size() for shard in self.shards)

    def __call__(self, indices: Tensor) -> Tensor:
        """The rows `indices` int64 [B], as [B, ...] on the CPU."""
        if len(self.shards) == 1:
            return self.shards[0].index_select(0, indices)
        first = self.shards[0]
        values = torch.empty((len(indices), *first.shape[1:]), dtype=first.dtype)
        number = indices.div(self.per, rounding_mode="floor")
        for n in sorted(set(number.tolist())):
            here = number == n
            values[here] = self.shards[n].index_select(0, indices[here] - n * self.per)
        return values


def _mapped(file: Path) -> Tensor:
    with safe_open(file, "pt") as opened:
        tensor: Tensor = opened.get_tensor(_KEY)
    return tensor


@dataclass
class StoredValues:
    """All stored values that one phase reads."""

    device: torch.device
    rows: dict[str, tuple[int, Rows]] = field(default_factory=dict)
    """Name -> stream and rows."""

    there: dict[str, Tensor] = field(default_factory=dict)
    """All rows of a value, where the device holds them."""

    def hold(self, most: int) -> None:
        """Keeps values on the device, the smallest first, as long as they are at most so many bytes together.

        Where the device is a CPU the files are its memory already.
        """
        if self.device.type == "cpu":
            return
        for name, (_, rows) in sorted(self.rows.items(), key=lambda item: item[1][1].bytes):
            if rows.bytes > most:
                return
            most -= rows.bytes
            self.there[name] = torch.cat([shard.to(self.device) for shard in rows.shards])

    def of(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The frozen graph's outputs for a batch, by name.

        The rows that `ahead` has put into the batch; those of values that the device holds; else read and sent now.
        """
        values = {}
        for name, (s, rows) in self.rows.items():
            if (value := batch.get(f"{READ}{name}_{s}")) is not None:
                values[name] = value
            elif name in self.there:
                values[name] = self.there[name].index_select(0, batch[f"indices_{s}"])
            else:
                values[name] = self._sent(rows, batch, s)
        return values

    def ahead(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch with the rows that must be read from files and sent: the earlier, the less a step waits for them.

        A batch that is cut into parts afterwards is cut with them.
        """
        sent = {f"{READ}{name}_{s}": self._sent(rows, batch, s) for name, (s, rows) in self.rows.items()
                if name not in self.there} if self.device.type != "cpu" else {}  # fmt: skip
        return {**batch, **sent}

    def _sent(self, rows: Rows, batch: Mapping[str, Tensor], stream: int) -> Tensor:
        values = rows(batch.get(f"host_indices_{stream}", batch[f"indices_{stream}"]).cpu())
        return (values.pin_memory() if self.device.type == "cuda" else values).to(self.device, non_blocking=True)


@dataclass
class _Partial:
    """A value while it is computed."""

    label: str
    node: fx.Node
    values: Values
    per: int
    done: int
    parts: list[Tensor] = field(default_factory=list)


@dataclass
class Keeper:
    """Computes the frozen values of a phase that the store lacks, and reads them all."""

    plan: Plan
    phase: Phase
    phase_graph: PhaseGraph
    store: Store
    device: torch.device
    open: Callable[[int], Loader]
    """A measuring loader of a stream, by its number."""
    key: str
    """The phase's key."""
    events: Events = field(default_factory=NoEvents)
    interrupt: Interrupt = field(default_factory=Interrupt)

    def __post_init__(self) -> None:
        assert isinstance(self.phase_graph.frozen, fx.GraphModule)
        self.graph = self.phase_graph.frozen
        self.graph.to(self.device)
        self.phase_graph.set_modes()
        recipe = self.phase.recipes[0]
        precision = frozen_precision(recipe)
        setting = json.dumps([precision, recipe.batch])
        self.keys = content_of(self.graph, self._inputs(), setting)
        self.half, self.tf32 = HALF.get(precision), precision == "tf32"

    def _inputs(self) -> dict[str, str]:
        inputs = {}
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                name, _, number = str(node.target).rpartition("_")
                view = self.phase.streams[int(number)] if number.isdigit() else None
                inputs[str(node.target)] = (
                    f"{name} of {view_content(self.plan.data[view.data], view)}" if view else str(node.target)
                )
        return inputs

    def values(self, compute: bool = True) -> StoredValues:
        """All values of the phase, computed now where they are not in the store.

        Parameters
        ----------
        compute
            Whether this process computes them; else another has done so.

        Raises
        ------
        Interrupted
            When asked to stop; finished shards stay.
        PlanError
            KD0608 for values that depend on what else is in the batch; KD0901 while another process computes them;
            KD0956 where another has computed them, and they cannot be seen.
        """
        stored = StoredValues(self.device)
        wanted = outputs_of(self.graph)
        for stream in sorted({v.stream for v in self.phase_graph.stored}):
            mine = {v: wanted[v.name] for v in self.phase_graph.stored if v.stream == stream}
            for node in mine.values():
                if compute:
                    self._folder(node).note_reader(self.key)
            lacking = {v: n for v, n in mine.items() if self._folder(n).whole() is None}
            if lacking and not compute:
                span = self.phase.recipes[0].spans.get("frozen", self.phase.recipes[0].span)
                raise error("KD0956", span, phase=self.phase.name, store=self.store.root)
            if lacking:
                self._make(stream, lacking)
            for v, node in mine.items():
                files = self._folder(node).whole()
                assert files is not None
                stored.rows[v.name] = (stream, Rows(files))
        if self.device.type == "cuda":
            stored.hold(torch.cuda.mem_get_info(self.device)[0] // PART_HELD)
        return stored

    def _folder(self, node: fx.Node) -> Values:
        return self.store.values(self.keys[node], node.name)

    # ---- computing

    def _make(self, stream: int, lacking: dict[StoredValue, fx.Node]) -> None:
        loader, size = self.open(stream), self.phase.recipes[0].batch_of(stream)
        partial: list[_Partial] = []
        for v, node in lacking.items():
            chunks = max(1, SHARD // max(1, size * v.row_bytes))
            values = self._folder(node)
            if values.folder not in {m.values.folder for m in partial}:  # two nodes may give the same
                partial.append(_Partial(v.label, node, values, chunks * size, 0))
        with ExitStack() as locks:
            for m in sorted(partial, key=lambda m: m.values.folder):  # in one order for everybody
                locks.enter_context(m.values.locked())
            for m in partial:
                m.done = len(m.values.sound()) * m.per
            graph, given = self._graph([m.node for m in partial])
            start = min(m.done for m in partial) // size
            total = loader.steps_per_epoch
            reported = began = time.monotonic()
            names = ", ".join(m.label for m in partial)
            self.events.note(f"{self.phase.name}: storing {names} of {self.phase.streams[stream].data}")
            for number, batch in enumerate(loader.epoch(0, start), start):
                known = {f"{name}_{stream}": t for name, t in batch.items()}
                at = batch.get("host_indices", batch["indices"]).cpu()
                known |= {name: rows(at).to(self.device) for name, rows in given.items()}
                out = self._run(graph, known)
                if number == start:
                    self._check_alone(graph, known, out)
                for m in partial:
                    self._add(m, out[m.node.name], number * size, last=number + 1 == total)
                if self.interrupt.requested:
                    raise Interrupted
                if time.monotonic() - reported > 10:
                    reported = time.monotonic()
                    left = (reported - began) / (number + 1 - start) * (total - number - 1)
                    self.events.note(f"{self.phase.name}: stored {(number + 1) / total:.0%}, {left:.0f} s left")
            for m in partial:
                m.values.finish({"rows": len(loader.dataset), "shards": -(-len(loader.dataset) // m.per)})

    def _graph(self, nodes: list[fx.Node]) -> tuple[fx.GraphModule, dict[str, Rows]]:
        """The part of the frozen graph that has to run, from stored values on where there are some."""
        kept: set[fx.Node] = set()
        given: dict[fx.Node, Rows] = {}
        todo = list(nodes)
        while todo:
            node = todo.pop()
            if node in kept or node in given:
                continue
            files = self._folder(node).whole() if node not in nodes and node.op != "placeholder" else None
            if files is not None:
                given[node] = Rows(files)
                continue
            kept.add(node)
            todo += node.all_input_nodes
        graph = subset(self.graph, kept, inputs=given, outputs={n.name: n for n in nodes})
        return graph, {n.name: rows for n, rows in given.items()}

    def _run(self, graph: fx.GraphModule, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted = [str(n.target) for n in graph.graph.nodes if n.op == "placeholder"]
        autocast = torch.autocast(self.device.type, dtype=self.half, enabled=self.half is not None)
        with torch.no_grad(), autocast, tf32(self.tf32, self.device):
            outputs: dict[str, Tensor] = graph(**{name: known[name] for name in wanted})
        return outputs

    def _check_alone(self, graph: fx.GraphModule, known: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> None:
        """KD0608 where a sample's value depends on the other samples of its batch."""
        count = len(next(iter(out.values())))
        half = -(-count // 2)
        alone = self._run(graph, {name: t[:half] for name, t in known.items()})
        for name, value in alone.items():
            one, two = value.double(), out[name][:half].double()
            close = 5e-2 if self.half is not None or self.tf32 else 1e-3
            near = torch.isclose(one, two, rtol=close, atol=close * float(two[two.isfinite()].abs().mean() or 1))
            if not bool(near.all()):
                recipe = self.phase.recipes[0]
                why = f"`{name}` of a sample depends on the other samples of its batch"
                span = recipe.spans.get("frozen", recipe.span)
                raise error("KD0608", span, phase=self.phase.name, why=why)

    @staticmethod
    def _add(m: _Partial, value: Tensor, at: int, last: bool) -> None:
        """Takes a chunk's values, which begin at sample `at`, and writes a shard when it is full."""
        if at < m.done:
            return
        m.parts.append(value.detach().to("cpu", copy=True))
        if sum(map(len, m.parts)) < m.per and not last:
            return
        shard = torch.cat(m.parts)
        m.values.put(m.done // m.per, tensor_file({_KEY: shard}))
        m.done += len(shard)
        m.parts.clear()
