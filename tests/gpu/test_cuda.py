"""What only a GPU can show; `tests/gpu/run.sh` runs this first where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.data.dataset import open_view
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.checkpoint import read_tensors
from kdplan.runtime.device import set_determinism
from kdplan.runtime.gpu import graphs
from kdplan.runtime.gpu.ahead import ahead
from kdplan.runtime.gpu.arithmetic import Arithmetic, tf32
from kdplan.runtime.gpu.copies import CudaCopies
from kdplan.runtime.loop import Training
from kdplan.runtime.saving import Saving
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Store
from tests.gpu.second_device import job_of, plan_text
from tests.gpu.test_beside import frozen_net
from tests.gpu.test_graphs import CASES
from tests.gpu.test_no_waiting import PHASES, PLAIN
from tests.runtime.small import job, network, recipe

if not torch.cuda.is_available():
    pytest.skip("no GPU here: tests/gpu/run.sh is for machines with one", allow_module_level=True)

CUDA = torch.device("cuda", 0)

MORE = {
    "fp16": plan_text(PLAIN, recipe="precision = fp16  clip = 1"),
    "bf16": plan_text(PLAIN, recipe="precision = bf16"),
    "routed": """
data digits = digits { limit = 300 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 2  batch = 64 }
verticals half of digits { low = 0..4  high = 5..9 }
teacher t[v in half] = digits_net(width = 2, classes = v)
student small = digits_net(width = 2)
phase p of small on digits with quick { loss = mse(small.layer1, route(half, labels, t[*]@init.layer1)) }
""",
}


@contextmanager
def training(text: str, folder: Path) -> Iterator[Training]:
    set_determinism(True)
    store = Store(folder)
    with store.begin("k") as work:
        made = Training(job_of(text, work, store, "cuda:0"))
        made.job.progress_seconds = made.job.checkpoint_seconds = 1e9
        yield made
    set_determinism(False)


@pytest.mark.parametrize("name", [*PHASES, *MORE])
def test_a_step_does_not_wait(name: str, tmp_path: Path) -> None:
    with training((PHASES | MORE)[name], tmp_path) as made:
        batches = ahead(made.job.streams.epoch(0), CUDA, made.job.stored)
        for _ in range(2):  # the first one of a run is compared with the networks themselves
            made.train_step(next(batches))
            made.step += 1
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                made.train_step(batch)
                made.step += 1
                made.save_and_report(0, False)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert made.step > 3


def trained(text: str, folder: Path) -> dict[str, Tensor]:
    with training(text, folder) as made:
        made.run()
        return {n: t.cpu() for n, t in made.checkpoint()[0].items()}


@pytest.mark.parametrize("name", CASES)
def test_graphs_train_as_steps_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = CASES[name].replace("epochs = 2", "epochs = 3")
    with monkeypatch.context() as never:
        never.setattr(graphs, "WARM_UP", 10**9)
        steps = trained(text, tmp_path / "a")
    recorded = trained(text, tmp_path / "b")
    assert [n for n in steps if not torch.equal(steps[n], recorded[n])] == []


def test_dropout_draws_anew_in_each_repetition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_determinism(True)
    weights = []
    for folder, warm in (("a", 10**9), ("b", graphs.WARM_UP)):
        net = network()
        with monkeypatch.context() as m, Store(tmp_path / folder).begin("k") as work:
            m.setattr(graphs, "WARM_UP", warm)
            made = job(work, recipe(compile="graphs"), net, device=CUDA)
            made.streams = _there(made)
            training = Training(made)
            training.run()
            assert training.graphs is not None and bool(training.graphs.recorded) == (warm < 100)
        weights.append([t.cpu() for t in net.state_dict().values()])
    set_determinism(False)
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def _there(made: Any) -> Any:
    from kdplan.data.loader import Loader
    from kdplan.runtime.streams import Streams

    data = open_view(ViewSpec("digits", limit=300), None, CUDA)
    return Streams([Loader(data, made.recipes[0].batch_of(), 3, train=True)])


def test_a_number_that_is_read_cannot_be_recorded() -> None:
    recorder = graphs.CudaRecorder(CUDA)
    x = torch.ones(4, device=CUDA)
    steps = graphs.StepGraphs("p", recorder, lambda batch: x.mul_(x.sum().item()), dict, CUDA)
    with pytest.raises(PlanError) as problem:
        for _ in range(graphs.WARM_UP + 1):
            steps.step({"x_0": x}, {})
    assert problem.value.diagnostics[0].code == "KD1022"


def test_batches_of_a_gpu_are_those_of_a_cpu() -> None:
    augment = tuple(transform(n, a, k) for n, a, k in (("pad_crop", [8], {"pad": 1}), ("flip", [], {})))
    spec = ViewSpec("digits", augment=augment)
    here, there = (open_view(spec, None, d) for d in ("cpu", "cuda"))
    at = torch.arange(100)
    one, two = here.raw(at, 3, True, 7, 0), there.raw(at.to(CUDA), 3, True, 7, 0)
    assert isinstance(one, Tensor) and isinstance(two, Tensor) and torch.equal(one, two.cpu())
    batch = there.finish(two, at, at.to(CUDA))
    assert torch.equal(batch["host_labels"], batch["labels"].cpu())


def test_a_checkpoint_leaves_the_gpu_without_stopping_it(tmp_path: Path) -> None:
    with Store(tmp_path).begin("k") as work:
        weights = {"w": torch.arange(1 << 20, device=CUDA).float(), "step": torch.tensor(3.0)}
        with Saving(work, Patience(), CUDA) as saving:
            assert isinstance(saving.copies, CudaCopies)
            torch.cuda.set_sync_debug_mode("error")
            try:
                saving.save(5, weights, {}, lambda: None)
                weights["w"].zero_()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        checkpoint = work.latest_checkpoint()
        assert checkpoint is not None
        assert torch.equal(read_tensors(checkpoint)["w"], torch.arange(1 << 20).float())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_rounded_once_give_the_same_bits(precision: str) -> None:
    from kdplan.ir.plan import Item, Recipe
    from kdplan.runtime.gpu.arithmetic import hold_in_half

    net, x = frozen_net().to(CUDA), torch.randn(8, 1, 4, 4, device=CUDA)
    arithmetic = Arithmetic(Recipe(Item("sgd"), precision=precision), CUDA)
    with arithmetic.frozen():
        before = net(x)
    hold_in_half(net, precision, ())
    with arithmetic.frozen():
        assert torch.equal(net(x), before)


def test_float32_is_float32_unless_tf32_is_asked_for() -> None:
    set_determinism(False)
    conv, x = nn.Conv2d(256, 256, 3).to(CUDA), torch.randn(8, 256, 16, 16, device=CUDA)
    exact = nn.functional.conv2d(x.double(), conv.weight.double(), conv.bias.double())
    a = torch.randn(512, 512, device=CUDA)
    far = {}
    for wanted in (False, True):
        with torch.no_grad(), tf32(wanted, CUDA):
            far[wanted] = (float((conv(x) - exact).abs().max()), float((a @ a - (a.double() @ a.double())).abs().max()))
    assert all(rough > 10 * fine for rough, fine in zip(far[True], far[False], strict=True)), far
