"""Whole runs: order, cache, failures, what is left in the store."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.dag import Cost
from kdplan.ir.expr import Call, InTraining, Op, StreamField, Tap, Version
from kdplan.ir.origins import EmaOf
from kdplan.ir.plan import ClassSet, Item, Network, Phase, Plan, Trainee, View
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import RunResult, run_plan
from kdplan.runtime.loop import Training
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.out_of_memory import out_of_memory
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.runtime.small import assemble, digits_plan, hard, keys, logits, planned, recipe, same


class Recorder(NoEvents):
    def __init__(self) -> None:
        self.moments: list[str] = []
        self.errors: list[BaseException] = []

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        self.moments.append(f"start {name} {start_step}/{total_steps}")

    def phase_done(self, name: str, seconds: float, summary: Any) -> None:
        self.moments.append(f"done {name}")

    def phase_failed(self, name: str, error: BaseException) -> None:
        self.moments.append(f"failed {name}")
        self.errors.append(error)

    def finished(self) -> None:
        self.moments.append("finished")


def run(
    plan: Plan, store: Path, needs: dict[str, list[str]] | None = None, **options: Any
) -> tuple[RunResult, Recorder]:
    events = Recorder()
    hand_made = options.pop("assemble", assemble)
    chosen = RunOptions(device="cpu", **options)
    return run_plan(plan, planned(plan, needs), keys(plan), Store(store), chosen, events, assemble=hand_made), events


def test_runs_in_order_and_then_nothing(tmp_path: Path) -> None:
    plan = digits_plan(epochs=6)
    result, events = run(plan, tmp_path, plan_file="x.kd")
    assert (result.exit_code, result.trained) == (0, ["train", "kd"])
    assert events.moments == ["start train 0/30", "done train", "start kd 0/30", "done kd", "finished"]
    store = Store(tmp_path)
    assert store.last_keys("x.kd") == {"train": "key-train", "kd": "key-kd"}
    artifact = store.verify("key-train")
    assert artifact.summary["measure"] == "top1" and artifact.summary["last"]["val"]["top1"] > 60
    assert artifact.summary["best"]["score"] >= artifact.summary["last"]["val"]["top1"]
    assert artifact.snapshots() == ["last", "best"]
    assert artifact.json("environment.json")["device"] == "cpu"
    assert [r["step"] for r in artifact.metrics()] == [5, 10, 15, 20, 25, 30]
    assert set(store.artifact("key-kd").metrics()[0]["terms"]) == {"soft"}
    again, _ = run(plan, tmp_path)
    assert (again.exit_code, again.trained, again.cached) == (0, [], ["train", "kd"])


def test_compiled_phase_equals_the_loss_as_written(tmp_path: Path) -> None:
    plan = digits_plan(epochs=3)
    results = [run(plan, tmp_path / "a", assemble=None)[0], run(plan, tmp_path / "b")[0]]
    assert [r.exit_code for r in results] == [0, 0]
    one, two = (Sources(plan, Store(tmp_path / x), keys(plan)) for x in "ab")
    assert same(materialise(one, Version("small", "kd")), materialise(two, Version("small", "kd")))


def test_damaged_artifact_is_trained_again(tmp_path: Path) -> None:
    plan = digits_plan()
    run(plan, tmp_path)
    file = tmp_path / "phases" / "key-kd" / "weights-0-last.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result, _ = run(plan, tmp_path)
    assert result.trained == ["kd"] and result.cached == ["train"]
    assert file.read_bytes() == whole


def test_equal_phases_are_trained_once(tmp_path: Path) -> None:
    plan = digits_plan()
    plan.phases["twin"] = plan.phases["train"]
    steps = planned(plan, {})
    steps["twin"].same_as, steps["twin"].key = "train", "key-train"
    known = keys(plan)
    known["twin"].key = "key-train"
    result = run_plan(plan, steps, known, Store(tmp_path), RunOptions(device="cpu"), assemble=assemble)
    assert result.trained == ["train", "kd"] and result.cached == ["twin"]


def broken_plan() -> Plan:
    plan = digits_plan()
    plan.phases["train"].loss = Call("boom", [logits(InTraining(0))])
    plan.phases["alone"] = Phase("alone", [Trainee(Version("small"))], [View("d")], [recipe()], hard())
    return plan


def test_user_code_that_raises(tmp_path: Path) -> None:
    result, events = run(broken_plan(), tmp_path)
    assert result.exit_code == 1 and set(result.failed) == {"train"} and result.skipped == ["kd", "alone"]
    message = str(result.failed["train"])
    line = re.search(r"small\.py:(\d+): ValueError: no luck", message)
    assert line is not None and "Phase `train` failed at step 0" in message
    assert "raise ValueError" in Path(__file__).with_name("small.py").read_text().splitlines()[int(line[1]) - 1]
    assert events.moments[-2:] == ["failed train", "finished"]


def test_keep_going_runs_what_does_not_depend_on_it(tmp_path: Path) -> None:
    result, _ = run(broken_plan(), tmp_path, keep_going=True)
    assert (result.exit_code, result.trained, result.skipped) == (1, ["alone"], ["kd"])


def test_out_of_memory(tmp_path: Path) -> None:
    def hungry(*args: Any) -> PhaseGraph:
        graph = assemble(*args)

        def forward(**inputs: Any) -> Any:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")

        graph.trainable_graph.forward = forward
        return graph

    result, _ = run(digits_plan(), tmp_path, assemble=hungry)
    problem = result.failed["train"].diagnostics[0]
    assert problem.code == "KD0813" and "accumulate" in str(problem.help)


def test_out_of_memory_says_what_was_predicted() -> None:
    phase = digits_plan().phases["train"]
    cost = Cost(1, 1, 1, 1, activation_bytes=3_000_000_000, weight_bytes=500_000_000, disk_bytes=1)
    (problem,) = out_of_memory(phase, torch.device("cpu"), cost).diagnostics
    assert "3 GB of activations at `batch = " in problem.message and "0.5 GB of weights" in problem.message
    assert "`batch`" in str(problem.help)
    heavy = replace(cost, weight_bytes=4_000_000_000)
    assert "smaller network" in str(out_of_memory(phase, torch.device("cpu"), heavy).diagnostics[0].help)


def test_gpu_where_none_is(tmp_path: Path) -> None:
    plan = digits_plan()
    chosen = RunOptions(device="cuda:63")
    result = run_plan(plan, planned(plan), keys(plan), Store(tmp_path), chosen, assemble=assemble)
    assert result.failed["train"].diagnostics[0].code == "KD0810" and result.exit_code == 1


def test_no_batches(tmp_path: Path) -> None:
    plan = digits_plan()
    plan.phases["train"].streams[0].classes = ClassSet("d", [])
    result, _ = run(plan, tmp_path)
    assert result.failed["train"].diagnostics[0].code in ("KD0823", "KD0728", "KD0729")


def test_locked_by_another_run(tmp_path: Path) -> None:
    plan = digits_plan()
    with Store(tmp_path).begin("key-train"):
        result, _ = run(plan, tmp_path, wait=False)
    assert result.exit_code == 3 and "train" in result.failed


def test_weights_of_another_phase_that_are_gone(tmp_path: Path) -> None:
    plan = digits_plan()
    steps = planned(plan)
    steps["train"].action = "cached"
    result = run_plan(plan, steps, keys(plan), Store(tmp_path), RunOptions(device="cpu"), assemble=assemble)
    assert result.exit_code == 0 and result.trained == ["train", "kd"]


def test_ema_copy_is_kept_with_its_source(tmp_path: Path) -> None:
    plan = digits_plan()
    plan.networks["slow"] = Network("slow", Item("digits_net", {"width": 8}), seed=1, origin=EmaOf("big", 0.9))
    soft = Call("mse", [logits(InTraining(0)), logits(Version("slow"))])
    phase = plan.phases["train"]
    phase.loss = Op("+", [hard(), soft])
    result, _ = run(plan, tmp_path, assemble=None)
    assert result.exit_code == 0, result.failed
    sources = Sources(plan, Store(tmp_path), keys(plan))
    slow, big = (materialise(sources, Version(n, "train")) for n in ("slow", "big"))
    assert not same(slow, big) and not same(slow, materialise(sources, Version("big")))


def test_a_cached_run_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from kdplan.ir.dag import Planned\nfrom kdplan.ir.plan import Plan\n"
        "from kdplan.runtime.execute import run_plan\nfrom kdplan.runtime.measures.table import run_measures\n"
        "from kdplan.runtime.store import Store\n"
        f"store = Store({str(tmp_path)!r})\n"
        "r = run_plan(Plan(), {'a': Planned('a', 'k', 'cached', [], [])}, {}, store)\n"
        "run_measures(Plan(), {}, store)\n"
        "assert r.cached == ['a'] and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_speed_is_remembered(tmp_path: Path) -> None:
    plan = digits_plan()
    store = Store(tmp_path)
    store.keep_number("costs", "key-train", {"flops_step": 1000})
    run(plan, tmp_path)
    steps, seconds = (store.artifact("key-train").summary[n] for n in ("steps", "seconds"))
    assert store.speeds.all() == {"cpu": pytest.approx(1000 * steps / seconds)}


@pytest.mark.parametrize(("batch", "sizes"), [(50, (50, 50)), ([50, 20], (50, 20))])
def test_two_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int | list[int], sizes: tuple[int, int]
) -> None:
    """Labelled images teach, unlabelled ones are only copied from the teacher; compiled and as written agree."""
    plan = digits_plan(accumulate=2)
    plan.phases["kd"].recipes = [replace(r, batch=batch) for r in plan.phases["kd"].recipes]
    seen = []

    def forward(self: Training, part: dict[str, Tensor]) -> dict[str, Tensor]:
        if "inputs_1" in part:
            seen.append((len(part["inputs_0"]), len(part["inputs_1"])))
        return plain(self, part)

    plain = Training.forward
    monkeypatch.setattr(Training, "forward", forward)
    other = StreamField(1, "inputs")
    kd = plan.phases["kd"]
    kd.streams = [View("d"), View("d", "test", unlabelled=True)]
    copy = Call("mse", [Tap(InTraining(0), [other], "logits"), Tap(Version("big", "train"), [other], "logits")])
    kd.loss, kd.logged = Op("+", [hard(), copy]), {"copy": copy}
    for folder, way in (("a", None), ("b", assemble)):
        assert run(plan, tmp_path / folder, assemble=way)[0].exit_code == 0
    one, two = (Store(tmp_path / x).artifact("key-kd").metrics() for x in "ab")
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-5)
    assert len(one) == 2 and one[-1]["step"] == 6
    assert sizes in seen and all(a <= sizes[0] and b <= sizes[1] for a, b in seen)
