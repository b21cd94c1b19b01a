"""The processes that train one phase together: `torchrun` starts them, and rank 0 leads.

Rank 0 alone reads and writes the store, validates and prints. The other ranks wait for its orders; between two orders
all of them exchange what a step needs (`shards.py`). No message is a pickle: orders are JSON, weights are safetensors.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Phase, Plain, Plan
from kdplan.ir.versions import ema_copies
from kdplan.runtime.checkpoint import plain_tensors

PATIENCE = timedelta(days=30)
"""How long a rank waits: for a phase that rank 0 trains alone. A rank that ends is noticed at once."""

UNDIVIDED = ("adafactor", "rprop")
"""Optimizers that compute with whole parameters, or write in a way that torch cannot divide."""

Order = dict[str, Plain]
Way = Literal["", "fast", "fully-shard"]


class Abandoned(Exception):
    """Rank 0 has ended the phase early; the other ranks wait for its next order.

    Attributes
    ----------
    problem
        What this rank alone has run into, if that is the reason.
    """

    def __init__(self, problem: Exception | None = None) -> None:
        super().__init__()
        self.problem = problem


@dataclass(slots=True)
class Ranks:
    """This process among those of its run; by default it is alone, and then every method is free.

    Examples
    --------
    >>> Ranks().leads, Ranks(1, 4).shards_of(8)
    (True, range(2, 4))
    """

    rank: int = 0
    size: int = 1
    through_host: bool = False
    """Whether tensors are exchanged on CPUs: ranks share a GPU, or have none."""
    way: Way = ""
    """How they sum gradients: "" in a fixed order, else as torch does it."""

    @staticmethod
    def start(way: Way = "") -> Ranks:
        """Join the processes that `torchrun` has started.

        Raises
        ------
        PlanError
            KD0952 if they do not meet.
        """
        local, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        ranks = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), through_host=local > gpus, way=way)
        with _talking():
            dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
        ranks.through_host = any(row[0] for row in ranks.gather_numbers([ranks.through_host]))
        return ranks

    @property
    def leads(self) -> bool:
        """Whether this process reads and writes the store."""
        return self.rank == 0

    @property
    def sums(self) -> str:
        """In what order this process and the others sum gradients: the last bits depend on it.

        >>> Ranks(0, 4).sums, Ranks(0, 2, way="fast").sums
        ('in a fixed order', 'over 2 processes (--fast)')
        """
        return f"over {self.size} processes (--{self.way})" if self.way else "in a fixed order"

    def shards_of(self, count: int) -> range:
        """The shards that this rank computes, of `count`."""
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def check(self, plan: Plan, phase: Phase) -> None:
        """KD0950 where the phase's shards cannot be divided among the ranks, KD0986 where its parameters cannot.

        KD0988 and KD1021 where `norm = sync` or a recorded step and any order of sums exclude each other.
        """
        recipe = phase.recipes[0]
        if self.way == "fully-shard":
            copies = ema_copies(plan, phase)
            reasons = {
                "`compile`": recipe.compile,
                "`channels_last`": recipe.channels_last,
                f"the moving average {listing(copies)} of a trained network": bool(copies),
                **{f"the optimizer `{n}`": any(r.optimizer.name == n for r in phase.recipes) for n in UNDIVIDED},
            }
            if what := next((what for what, stands in reasons.items() if stands), None):
                raise error("KD0986", recipe.span, phase=phase.name, what=what)
        if self.way and recipe.shards > 1 and recipe.norm == "sync":
            raise error("KD0988", recipe.spans.get("norm", recipe.span), phase=phase.name, option=f"--{self.way}")
        if self.way and recipe.compile == "graphs":
            why, option = "processes add up gradients outside of a graph", f"`--{self.way}`"
            span = recipe.spans.get("compile", recipe.span)
            raise error("KD1021", span, phase=phase.name, what=option, why=why, instead=f"leave {option} out")
        if not self.way and recipe.shards > 1 and recipe.shards % self.size:
            fitting = [n for n in range(1, recipe.shards + 1) if recipe.shards % n == 0]
            span = recipe.spans.get("shards", recipe.span)
            raise error("KD0950", span, phase=phase.name, shards=recipe.shards, ranks=self.size,
                        fitting=", ".join(map(str, fitting)))  # fmt: skip

    # ---- from rank 0 to the others

    def order(self, what: str, **values: Plain) -> None:
        """Send an order to the other ranks, as rank 0; nothing on the others."""
        if self.size > 1 and self.leads:
            self._send(json.dumps({"what": what, **values}).encode())

    def receive(self, *expected: str) -> Order:
        """The next order of rank 0.

        Parameters
        ----------
        expected
            Which orders may come; by default any.

        Raises
        ------
        Abandoned
            If rank 0 has given up the phase.
        """
        order: Order = json.loads(self._send(None))
        if order["what"] == "abandon":
            raise Abandoned
        assert not expected or order["what"] in expected, f"{order['what']} in place of {expected}"
        return order

    def abandon(self) -> None:
        """Have the others leave the phase that they are in, as rank 0; where one of them has gone, that is known."""
        with suppress(PlanError):
            self.order("abandon")

    def share_bytes(self, content: bytes | None) -> bytes:
        """The bytes that rank 0 gives, on every rank."""
        if self.size == 1:
            assert content is not None
            return content
        if self.leads:
            self.order("bytes")
        else:
            self.receive("bytes")
        return self._send(content)

    def share_state(self, state: tuple[Mapping[str, Tensor], Plain] | None) -> tuple[dict[str, Tensor], Plain] | None:
        """Tensors and plain values that rank 0 gives, or None, on every rank."""
        if self.size == 1:
            return (dict(state[0]), state[1]) if state is not None else None
        if self.leads:
            self.order("state", plain=state[1] if state is not None else None)
            if state is not None:
                self._send(save(plain_tensors(state[0])))
            return (dict(state[0]), state[1]) if state is not None else None
        plain = self.receive("state")["plain"]
        return (load(self._send(None)), plain) if plain is not None else None

    def _send(self, content: bytes | None) -> bytes:
        """Broadcast bytes from rank 0: their number, then they."""
        with _talking():
            size = torch.tensor([len(content) if content is not None else 0])
            dist.broadcast(size, 0)
            if content is None:
                data = torch.empty(int(size), dtype=torch.uint8)
            else:
                data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            dist.broadcast(data, 0)
        return content if content is not None else data.numpy().tobytes()

    # ---- from all to all

    def gather_numbers(self, numbers: list[int]) -> list[list[int]]:
        """As many whole numbers of each rank, in the order of ranks."""
        if self.size == 1:
            return [numbers]
        row = torch.tensor(numbers, dtype=torch.int64)
        rows = [torch.empty_like(row) for _ in range(self.size)]
        with _talking():
            dist.all_gather(rows, row)
        return [r.tolist() for r in rows]

    def exchange(self, numbers: list[int], problem: Exception | None, phase: str, span: Span | None) -> list[list[int]]:
        """As many whole numbers of each rank, unless a rank has a problem, which ends the phase on all of them.

        Raises
        ------
        Abandoned
            On ranks other than the first, where any has a problem.
        PlanError
            KD0953 on the first, where another has one. Its own is raised as it is.
        """
        rows = self.gather_numbers([problem is not None, *numbers])
        if failed := [rank for rank, row in enumerate(rows) if row[0]]:
            if not self.leads:
                raise Abandoned(problem if failed[0] else None)
            raise problem or error("KD0953", span, phase=phase, rank=failed[0])
        return [row[1:] for row in rows]

    def sum(self, row: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, in whatever order; may change its argument."""
        if self.size == 1:
            return row
        held = row.cpu() if self.through_host else row
        with _talking():
            dist.all_reduce(held)
        return held.to(row.device)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """A one-dimensional tensor of each rank, all of one length and type, in the order of ranks."""
        if self.size == 1:
            return [tensor]
        host = self.through_host or tensor.device.type not in ("cpu", "cuda")
        mine = (tensor.cpu() if host else tensor).contiguous().view(torch.uint8)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        with _talking():
            dist.all_gather(parts, mine)
        return [p.view(tensor.dtype).to(tensor.device) for p in parts]

    # ---- the end

    def end(self, code: int) -> None:
        """End the others with this exit code, as rank 0, and leave the group."""
        with suppress(PlanError):
            self.order("end", code=code)
        self.leave()

    def leave(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()


@contextmanager
def _talking() -> Iterator[None]:
    """KD0952 for what torch raises where another process has gone."""
    try:
        yield
    except (RuntimeError, ValueError) as problem:
        reason = re.sub(r"^\[[^\]]*\] *", "", str(problem).splitlines()[0]).partition(". ")[0].rstrip(".")
        raise error("KD0952", None, problem=reason) from problem


def check_ranks(plan: Plan, phases: Iterable[str], ranks: Ranks) -> list[str]:
    """The phases that one process trains while the others wait.

    Raises
    ------
    PlanError
        KD0950 where shards cannot be divided among the ranks, KD0957 where no phase has shards.
    """
    recipes = {name: plan.phases[name].recipes[0] for name in phases}
    for name in recipes:
        ranks.check(plan, plan.phases[name])
    if ranks.way:
        return []
    alone = [name for name, recipe in recipes.items() if recipe.shards == 1]
    if len(alone) == len(recipes):
        first = next(iter(recipes.values()))
        raise error("KD0957", first.span, ranks=ranks.size, phases=listing(alone, 4))
    return alone
