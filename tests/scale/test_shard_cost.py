"""The memory that is predicted for a step on shards is what one takes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdplan.graph.build import Builder
from kdplan.graph.cost import LiveBytes, cost
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.graph.prune import prune
from kdplan.graph.shard_cost import shard_bytes
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import Shards
from kdplan.runtime.synced import SyncedShards

BATCH = 32


def maps() -> nn.Module:
    """Many activations and few weights."""
    conv, more = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
    body = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), more, nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))


def vectors() -> nn.Module:
    """Few activations and many weights."""
    hidden = nn.Linear(256, 500), nn.BatchNorm1d(500), nn.ReLU()
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(500, 10))


def graph_of(net: nn.Module) -> tuple[torch.fx.GraphModule, PhaseGraph]:
    b = Builder()
    x, y = (
        b.input("inputs_0", torch.zeros(BATCH, 1, 16, 16)),
        b.input("labels_0", torch.zeros(BATCH, dtype=torch.int64)),
    )
    b.network("small", net)
    loss = b.call(nn.functional.cross_entropy, b.apply("small", (x,)), y)
    gm = prune(b.finish({"loss": loss}).graph_module).graph_module
    inputs = ["inputs_0", "labels_0"]
    return gm, PhaseGraph(gm, gm, [net], [dict(net.named_parameters())], trainable_inputs=inputs)


@pytest.mark.parametrize("norm", ["shard", "sync"])
@pytest.mark.parametrize("net", [maps, vectors])
def test_a_step_takes_what_is_predicted(net: Callable[[], nn.Module], norm: str) -> None:
    gm, graph = graph_of(net())
    graph.set_modes()
    names = {n for n, _ in gm.named_parameters()}
    recipe = Recipe(Item("sgd"), batch=BATCH, shards=4, norm=norm)  # type: ignore[arg-type]
    predicted = shard_bytes(gm, names, recipe)
    shards = (SyncedShards if norm == "sync" else Shards)(graph, 4, Ranks(), "p", None)

    def step(shard: int, batch: dict[str, Tensor], share: float) -> dict[str, Tensor]:
        result: dict[str, Tensor] = gm(**batch)
        shards.backward(result["loss"] * share)
        return result

    batch = {"inputs_0": torch.randn(BATCH, 1, 16, 16), "labels_0": torch.zeros(BATCH, dtype=torch.int64)}
    live_bytes = LiveBytes([*batch.values(), *gm.parameters(), *gm.buffers()])
    with live_bytes:
        shards.train(batch, BATCH, step)
    part = predicted / live_bytes.peak
    if norm == "shard":
        assert part == pytest.approx(1, rel=0.01)
    else:  # of what exists only for a moment, each shard has its own
        assert 0.99 < part < 1.25


def test_ranks_share_what_shards_take_at_once() -> None:
    gm, _ = graph_of(maps())
    names = {n for n, _ in gm.named_parameters()}
    recipe = Recipe(Item("sgd"), batch=BATCH, shards=4, norm="sync")
    one, two, four = (shard_bytes(gm, names, recipe, ranks) for ranks in (1, 2, 4))
    assert one == pytest.approx(2 * two, rel=0.05) and two == pytest.approx(2 * four, rel=0.1)
    alone = shard_bytes(gm, names, Recipe(Item("sgd"), batch=BATCH, shards=4))
    assert alone == pytest.approx(four, rel=0.1) and cost(gm, names).peak_bytes == pytest.approx(one, rel=0.1)
