"""Runs a whole phase graph on fake tensors, with gradients."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from kdplan.graph.fake import FakeWorld
from kdplan.graph.freeze import parameter_names


class Replay(fx.Interpreter):
    """Interprets a graph in a fake world; values are dropped after their last use, as in a real step.

    `seen` keeps what `keep` names.
    """

    def __init__(self, gm: fx.GraphModule, world: FakeWorld, keep: Collection[str] = ()) -> None:
        super().__init__(gm)
        self.world = world
        self.keep = set(keep)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("placeholder", "output"):
            value = super().run_node(n)
            if n.name in self.keep:
                self.seen[n.name] = value
            return value
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        assert isinstance(self.module, fx.GraphModule)
        value = self.world.run(n, self.module, args, kwargs)
        if n.name in self.keep:
            self.seen[n.name] = value
        return value


def world_for(gm: fx.GraphModule, moving: Collection[str] | None = None) -> FakeWorld:
    """A world in the graph's own fake mode whose parameters ask for gradients: those in `moving`, or all."""
    first = next((n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), FakeTensor)), None)
    world = FakeWorld(first.fake_mode if first is not None else None)
    names = parameter_names(gm)
    for p in gm.parameters():
        asks = p.is_floating_point() and (moving is None or names[id(p)] in moving)
        world.set_twin(p, world.fresh(p, requires_grad=asks))
    return world


def example_inputs(gm: fx.GraphModule, world: FakeWorld, batch: int | None = None) -> list[Any]:
    """Fresh fake inputs for the graph's placeholders; `batch` replaces the first dimension where there is one."""
    made: list[Any] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            if not isinstance(value, Tensor):
                made.append(value)
                continue
            fresh = world.fresh(value)
            if batch is not None and value.dim():
                with world.mode:
                    fresh = fresh.new_empty((batch, *value.shape[1:]))  # type: ignore[assignment]
            made.append(fresh)
    return made
