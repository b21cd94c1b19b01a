"""What happens beside the steps: batches that are made ready, copies of a state, precisions of frozen networks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.checkpoint import read_tensors
from kdplan.runtime.gpu.ahead import ahead
from kdplan.runtime.gpu.arithmetic import Arithmetic, hold_in_half
from kdplan.runtime.optimise import load_named_state
from kdplan.runtime.saving import Saving
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Store

CPU = torch.device("cpu")


class Side:
    """A side that writes down what goes on."""

    def __init__(self) -> None:
        self.log: list[str] = []

    @contextmanager
    def preparing(self) -> Iterator[None]:
        self.log.append("prepare")
        yield

    def ready(self, batch: dict[str, Tensor]) -> None:
        self.log.append(f"ready {int(batch['x'])}")


def test_a_batch_is_prepared_when_the_step_before_is_ordered() -> None:
    side = Side()
    for batch in ahead(iter([{"x": torch.tensor(1)}, {"x": torch.tensor(2)}]), CPU, side=side):
        side.log.append(f"step {int(batch['x'])}")
    assert side.log == ["prepare", "ready 1", "step 1", "prepare", "ready 2", "step 2", "prepare"]


class LateCopies:
    """Copies that are there only when they are waited for, as those of a GPU."""

    def __init__(self) -> None:
        self.may = threading.Event()

    def of(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Callable[[], None]]:
        now = {name: t.clone() for name, t in tensors.items()}
        held = {name: torch.full_like(t, -1) for name, t in tensors.items()}

        def wait() -> None:
            assert self.may.wait(30)
            for name, value in now.items():
                held[name].copy_(value)

        return held, wait

    def forget(self) -> None:
        pass


def test_a_checkpoint_is_of_its_step_whenever_its_copy_is_there(tmp_path: Path) -> None:
    with Store(tmp_path).begin("k") as work:
        copies, weights, done = LateCopies(), {"w": torch.ones(3)}, []
        with Saving(work, Patience()) as saving:
            saving.gpu, saving.copies = True, copies  # small as it is, a thread writes it
            saving.save(5, weights, {}, lambda: done.append(5))
            weights["w"].zero_()  # training goes on
            saving.collect()
            assert done == []
            copies.may.set()
        checkpoint = work.latest_checkpoint()
        assert checkpoint is not None and done == [5]
        assert torch.equal(read_tensors(checkpoint)["w"], torch.ones(3))


def frozen_net() -> fx.GraphModule:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()
    return fx.symbolic_trace(net)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_rounded_once_give_the_same_bits(precision: str) -> None:
    """As autocast, which rounds them in every step."""
    net, x = frozen_net(), torch.randn(8, 1, 4, 4)
    arithmetic = Arithmetic(Recipe(Item("sgd"), precision=precision), CPU)
    with arithmetic.frozen():
        before = net(x)
    assert hold_in_half(net, precision, ()) == 4
    with arithmetic.frozen():
        after = net(x)
    assert torch.equal(before, after) and before.dtype != torch.float32


def test_weights_that_others_read_are_not_rounded() -> None:
    net = frozen_net()
    conv = net.get_submodule("0")
    assert hold_in_half(net, "bf16", conv.parameters()) == 2
    assert conv.weight.dtype == torch.float32

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) + self.fc.weight.sum()

    assert hold_in_half(fx.symbolic_trace(Reads()), "bf16", ()) == 1  # the bias


def test_frozen_parts_of_a_trained_network_are_saved_as_they_are() -> None:
    """A stage trains one part; the earlier ones are frozen, and stand in its artifact."""
    net = frozen_net()
    trained = dict(net.get_submodule("4").named_parameters(prefix="4"))
    graph = PhaseGraph(trainable_graph=net, root=net, networks=[net], trainable=[trained], frozen=net)
    assert Arithmetic(Recipe(Item("sgd"), precision="bf16"), CPU).hold_in_half(graph) == 0
    graph.networks, graph.trainable = [], []
    assert Arithmetic(Recipe(Item("sgd"), precision="bf16"), CPU).hold_in_half(graph) == 4


def test_a_precision_of_its_own_ends_where_values_cross() -> None:
    arithmetic = Arithmetic(Recipe(Item("sgd"), frozen_precision="bf16"), CPU)
    net, x = frozen_net(), torch.randn(8, 1, 4, 4)
    with arithmetic.frozen():
        value = net(x)
        assert not torch.is_grad_enabled()
    assert value.dtype == torch.bfloat16
    crossing = arithmetic.crossing({"v": value, "ids": torch.arange(2)})
    assert crossing["v"].dtype == torch.float32 and crossing["ids"].dtype == torch.int64
    with arithmetic.trained():
        assert net(x).dtype == torch.float32


def test_a_checkpoint_of_another_device_says_what_and_not_how() -> None:
    """Fused optimizers count their steps on the device; a rate that is a tensor stays that very tensor."""
    parameter = nn.Parameter(torch.ones(2, device="meta"))
    optimizer = torch.optim.Adam([parameter], lr=0.1, capturable=True)
    rate = optimizer.param_groups[0]["lr"] = torch.zeros(())
    saved = {**{k: v for k, v in optimizer.param_groups[0].items() if k != "params"}, "params": ["p"]}
    saved |= {"lr": 0.5, "capturable": False, "fused": None, "betas": [0.8, 0.9]}
    tensors = {"p/step": torch.tensor(3.0), "p/exp_avg": torch.ones(2), "p/exp_avg_sq": torch.ones(2)}
    load_named_state(optimizer, {"p": parameter}, tensors, {"groups": [saved], "entries": {}})
    group = optimizer.param_groups[0]
    assert group["lr"] is rate and float(rate) == 0.5 and group["capturable"] is True and group["betas"] == (0.8, 0.9)
    assert optimizer.state[parameter]["step"].device.type == "meta"
