"""Steps as recordings, on a CPU by a stand-in: the same training as step by step, in every bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import PlanError
from kdplan.ir.optimizers import CAPTURABLE, FUSED, OPTIMIZERS
from kdplan.ir.plan import Item
from kdplan.runtime import loop
from kdplan.runtime.gpu import graphs
from kdplan.runtime.gpu.graphs import MOST, WARM_UP, StepGraphs
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.gpu.second_device import job_of, plan_text
from tests.gpu.tape import Tape
from tests.gpu.test_no_waiting import COUNTERS, KD, PLAIN
from tests.runtime.small import job, network, recipe

ADAM = "adam(lr = 0.01)"


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[Tape]:
    """Records on the CPU; the recorders in the order in which phases got them."""
    made: list[Tape] = []

    def recorder(device: torch.device) -> Tape:
        made.append(Tape())
        return made[-1]

    monkeypatch.setattr(graphs, "CudaRecorder", recorder)
    for module in (loop, graphs):
        monkeypatch.setattr(module, "recorded", lambda recipe, device: recipe.compile == "graphs")
    return made


def trained(text: str, folder: Path, stop: int | None = None) -> dict[str, Tensor]:
    """The state of a plan's last phase at its end, or saved and left after step `stop`."""
    store = Store(folder)
    with store.begin("k") as work:
        training = Training(job_of(text, work, store))
        if stop is not None:
            for epoch in range(2):
                for batch in list(training.job.streams.epoch(epoch)):
                    if training.step < stop:
                        training.train_step(batch)
                        training.step += 1
            training.save()
            return {}
        training.run()
        tensors, _ = training.checkpoint()
        return {n: t.clone() for n, t in tensors.items()}


CASES = {
    "plain": plan_text(PLAIN, recipe="compile = graphs"),
    "distillation": plan_text(KD, recipe="compile = graphs"),
    "adam with a schedule": plan_text(PLAIN, ADAM, "schedule = cosine()  warmup = 1  compile = graphs"),
    "step counters": plan_text(COUNTERS, recipe="compile = graphs"),
    "averages and clipping": plan_text(PLAIN, recipe="ema = 0.9  clip = 0.5  compile = graphs"),
    "accumulation": plan_text(KD, recipe="accumulate = 2  compile = graphs").replace("epochs = 2", "epochs = 4"),
}


@pytest.mark.parametrize("name", CASES)
def test_recordings_train_as_steps_do(name: str, tmp_path: Path, tapes: list[Tape], monkeypatch: Any) -> None:
    """Both with the same optimizer, of which the rate is a tensor: the first phase records nothing."""
    text = CASES[name].replace("epochs = 2", "epochs = 3")
    with monkeypatch.context() as never:
        never.setattr(graphs, "WARM_UP", 10**9)
        steps = trained(text, tmp_path / "a")
    recorded = trained(text, tmp_path / "b")
    assert "record" not in tapes[0].log
    assert tapes[1].log.count("replay") >= 4 and tapes[1].log.count("aside") >= WARM_UP
    assert steps.keys() == recorded.keys()
    assert [n for n in steps if not torch.equal(steps[n], recorded[n])] == []


def small(tmp_path: Path, net: nn.Module, **changes: Any) -> Training:
    return Training(job(Store(tmp_path).begin("k").__enter__(), recipe(compile="graphs", **changes), net))


def test_dropout_draws_anew_in_each_repetition(tmp_path: Path, tapes: list[Tape], monkeypatch: Any) -> None:
    one, two = network(), network()
    with monkeypatch.context() as never:
        never.setattr(graphs, "WARM_UP", 10**9)
        small(tmp_path / "a", one).run()
    small(tmp_path / "b", two).run()
    assert tapes[1].log.count("replay") > 2
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


def test_it_resumes_between_repetitions(tmp_path: Path, tapes: list[Tape]) -> None:
    """What resumes warms up again, at other steps: the bits are the same."""
    text = CASES["adam with a schedule"].replace("epochs = 2", "epochs = 3")
    whole = trained(text, tmp_path / "a")
    trained(text, tmp_path / "b", stop=7)
    resumed = trained(text, tmp_path / "b")
    assert "replay" in tapes[1].log and "replay" in tapes[2].log
    assert [n for n in whole if not torch.equal(whole[n], resumed[n])] == []


def test_another_shape_and_another_mode_are_recorded_anew() -> None:
    tape, seen = Tape(), []
    total = torch.zeros(1)
    module = nn.Dropout()

    def work(batch: dict[str, Tensor]) -> None:
        seen.append(batch["x_0"].shape[0])
        total.add_(batch["x_0"].sum())

    steps = StepGraphs("p", tape, work, lambda: {"total": total}, torch.device("cpu"))
    steps.look([module])

    def step(size: int) -> None:
        steps.step({"x_0": torch.full((size,), 1.0), "host_x_0": torch.zeros(1)}, {"at": 0})

    for _ in range(WARM_UP + 2):
        step(4)
    assert steps.recorded == 1 and tape.log[-3:] == ["record", "replay", "replay"]
    step(2)
    assert tape.log[-1] == "aside"
    for _ in range(WARM_UP):
        step(2)
    assert steps.recorded == 2 and float(total) == 4 * (WARM_UP + 2) + 2 * (WARM_UP + 1)
    module.eval()
    steps.look([module])
    step(4)
    assert tape.log[-1] == "aside"
    module.train()
    steps.look([module])
    step(4)
    assert tape.log[-1] == "replay"
    steps.forget()
    step(4)
    assert tape.log[-1] == "aside"
    for size in range(5, 5 + MOST + 1):
        for _ in range(WARM_UP + 1):
            step(size)
    assert steps.recorded == MOST and tape.log[-1] == "aside"


def refused(work: Any, state: dict[str, Tensor] | None = None) -> str:
    held = state if state is not None else {}
    steps = StepGraphs("p", Tape(), work, lambda: held, torch.device("cpu"))
    with pytest.raises(PlanError) as problem:
        for _ in range(WARM_UP + 1):
            steps.step({"x_0": torch.ones(2)}, {})
    (found,) = problem.value.diagnostics
    assert found.code == "KD1022"
    return found.message


def test_a_step_that_cannot_be_repeated() -> None:
    assert "not permitted" in refused(lambda batch: batch["x_0"].sum().item())
    assert "draws random numbers on the CPU" in refused(lambda batch: batch["x_0"] * random.random())
    state = {"buffer/nets.a.count": torch.zeros(1)}

    def rebind(batch: dict[str, Tensor]) -> None:
        state["buffer/nets.a.count"] = state["buffer/nets.a.count"] + 1

    assert "another tensor of `a.count`" in refused(rebind, state)


def test_the_tables_are_those_of_torch() -> None:
    import inspect

    from kdplan.ir.implementation import load

    signatures = {n: set(inspect.signature(load(s.implementation)).parameters) for n, s in OPTIMIZERS.items()}
    assert {name for name, has in signatures.items() if "capturable" in has} == CAPTURABLE
    assert {name for name, has in signatures.items() if "fused" in has} >= FUSED
    assert Item("sgd").name in FUSED
