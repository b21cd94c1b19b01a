"""Stacks: members against the same phases alone, stops and resumes, what does not stack."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdplan.cli import main
from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.span import Source
from kdplan.runtime import stack_trial
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import RunResult, run_plan
from kdplan.runtime.facts import store_facts
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Artifact, Store
from kdplan.view.status import status

DATA = "data digits = digits { limit = 100  augment = [pad_crop(8, pad = 1)] }\n"
NETWORK = "student small = digits_net(width = 2)\n"
RECIPE = """recipe quick {
  optimizer = sgd(lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4)  schedule = cosine()
  epochs = 3  batch = 32  stack = STACK  MORE
}
"""
PHASE = "phase p of small on digits with quick { loss = cross_entropy(small.logits, labels) }\n"
SEEDS = "param seed in 0..2\n" + DATA + RECIPE + NETWORK + PHASE
CLOSE = 2e-4
"""How far weights of a member may be from those of the phase alone, after 12 steps, relative to the largest."""


def plan(text: str, stack: object, more: str = "") -> str:
    return text.replace("STACK", str(stack)).replace("MORE", more)


class Recorder(NoEvents):
    def __init__(self, die_at: int = -1) -> None:
        self.notes: list[str] = []
        self.saves: list[tuple[str, int]] = []
        self.starts: dict[str, int] = {}
        self.die_at = die_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        self.starts[name] = start_step

    def checkpointed(self, name: str, step: int) -> None:
        self.saves.append((name, step))
        if len(self.saves) == self.die_at:
            raise SystemExit(9)  # nothing is saved any more

    @property
    def stacks(self) -> list[str]:
        return [n for n in self.notes if "trained as one" in n]


def compiled(text: str, store: Store, folder: Path) -> Compiled:
    return compile_source(Source("plan.kd", text), folder, facts=store_facts(store))


def run(text: str, root: Path, events: Recorder | None = None, **options: Any) -> tuple[RunResult, Recorder]:
    events, store = events or Recorder(), Store(root / "store")
    whole = compiled(text, store, root)
    chosen = RunOptions(device="cpu", **options)
    return run_plan(whole.plan, whole.planned, whole.keys, store, chosen, events), events


def artifacts(text: str, root: Path) -> dict[str, Artifact]:
    store = Store(root / "store")
    whole = compiled(text, store, root)
    return {name: store.verify(whole.keys[name].key) for name in whole.planned}


def weights(artifact: Artifact) -> dict[str, Tensor]:
    files = sorted(artifact.path.glob("weights-*.safetensors"))
    return {f"{f.name}/{n}": t for f in files for n, t in load_file(f).items()}


def bits(text: str, root: Path) -> dict[str, dict[str, bytes]]:
    return {
        name: {f.name: f.read_bytes() for f in sorted(a.path.glob("weights-*"))}
        for name, a in artifacts(text, root).items()
    }


def numbers(artifact: Artifact) -> list[Mapping[str, Any]]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in artifact.metrics()]


def assert_close(one: Artifact, other: Artifact, tolerance: float = CLOSE) -> None:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys() != set()
    for name, tensor in mine.items():
        if tensor.is_floating_point():
            size = max(float(theirs[name].abs().max()), 1e-2)
            assert float((tensor - theirs[name]).abs().max()) <= tolerance * size, name
        else:
            assert torch.equal(tensor, theirs[name]), name
    for a, b in zip(one.metrics(), other.metrics(), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance) and a["lr"] == b["lr"]
        assert a["step"] == b["step"] and a["terms"] == pytest.approx(b["terms"], rel=tolerance)


def both(text: str, root: Path, tolerance: float = CLOSE, width: int = 3) -> dict[str, Artifact]:
    """Trains a plan with `STACK` both ways, and compares every phase."""
    plain, stack = plan(text, "off"), plan(text, width)
    (root / "a").mkdir(parents=True)
    (root / "b").mkdir()
    for file in root.glob("*.py"):
        for name in "ab":
            (root / name / file.name).write_text(file.read_text())
    assert run(plain, root / "a")[0].exit_code == 0
    result, events = run(stack, root / "b")
    assert result.exit_code == 0 and len(events.stacks) >= 1, events.notes
    alone, together = artifacts(plain, root / "a"), artifacts(stack, root / "b")
    for name, artifact in together.items():
        assert_close(artifact, alone[name], tolerance)
    return together


def test_seeds_agree_with_the_phases_alone(tmp_path: Path) -> None:
    """Each seed has an order of its own, so there are three batches; the fourth of an epoch has 4 samples."""
    together = both(SEEDS, tmp_path)
    forms = [a.json("environment.json")["stack"] for a in together.values()]
    assert [(f["width"], f["row"], f["shared"]) for f in forms] == [(3, 0, False), (3, 1, False), (3, 2, False)]


def test_a_sweep_agrees_and_reads_one_batch(tmp_path: Path) -> None:
    """Numbers of the loss, learning rates, and a teacher that all of them read."""
    text = (
        "param weight in [0.1, 0.5, 2]\n" + DATA + RECIPE + "teacher big = digits_net(width = 4)\n" + NETWORK
        + "phase p of small on digits with quick { optimizer = sgd(lr = weight / 10, momentum = 0.9)\n"
        "  loss = weight * cross_entropy(small.logits, labels)\n"
        "       + kd(small.logits, big@init.logits, temperature = 2 + weight) }"
    )  # fmt: skip
    together = both(text, tmp_path)
    forms = [a.json("environment.json")["stack"] for a in together.values()]
    assert {(f["width"], f["shared"]) for f in forms} == {(3, True)} and len(forms[0]["numbers"]) == 2


def test_the_key_says_that_a_phase_may_be_stacked(tmp_path: Path) -> None:
    def keys(stack: str) -> set[str]:
        text = plan(SEEDS, stack)
        return {k.key for k in compiled(text, Store(tmp_path), tmp_path).keys.values()}

    every = [keys(stack) for stack in ("off", "auto", "2", "3")]
    assert len(set.union(*every)) == 12
    plain = compiled(plan(SEEDS.replace("stack = STACK", ""), ""), Store(tmp_path), tmp_path)
    assert {k.key for k in plain.keys.values()} == every[0]


# ---- stops


def test_killed_between_the_checkpoints_of_its_members(tmp_path: Path) -> None:
    """After a kill the members stand at different steps; those ahead wait. The bits are those of the whole run."""
    text = plan(SEEDS, 3, "ema = 0.9  keep_epochs = [2]")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run(text, tmp_path / "a")[0].exit_code == 0
    starts = []
    for die_at in (4, 7, 2):  # of three members that save in turn
        events = Recorder(die_at)
        with pytest.raises(SystemExit):
            run(text, tmp_path / "b", events, checkpoint_steps=2)
        starts.append(sorted(events.starts.values()))
    result, events = run(text, tmp_path / "b")
    starts.append(sorted(events.starts.values()))
    assert starts[0] == [0, 0, 0] and any(len(set(s)) > 1 for s in starts) and starts[-1][0] > 0
    assert result.exit_code == 0 and len(events.stacks) == 1
    assert bits(text, tmp_path / "a") == bits(text, tmp_path / "b")
    for name, artifact in artifacts(text, tmp_path / "b").items():
        assert numbers(artifact) == numbers(artifacts(text, tmp_path / "a")[name])


def test_a_member_alone_goes_on_in_the_form_of_its_stack(tmp_path: Path) -> None:
    """Two of three are removed from the stopped run, or have ended: the third has the bits of the whole run."""
    text = plan(SEEDS, 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run(text, tmp_path / "a")[0].exit_code == 0
    with pytest.raises(SystemExit):
        run(text, tmp_path / "b", Recorder(3), checkpoint_steps=5)
    store = Store(tmp_path / "b" / "store")
    whole = compiled(text, store, tmp_path)
    names = list(whole.planned)
    events, options = Recorder(), RunOptions(device="cpu")
    only = {names[1]: whole.planned[names[1]]}
    assert run_plan(whole.plan, only, whole.keys, store, options, events).exit_code == 0
    assert events.starts.keys() == {names[1]} and events.starts[names[1]] in (4, 5)
    assert events.stacks == [f"{names[1]}: trained as one, in a stack of 3"]
    result, events = run(text, tmp_path / "b")
    assert sorted(result.trained) == sorted({*names} - {names[1]}) and len(events.stacks) == 1
    assert bits(text, tmp_path / "a") == bits(text, tmp_path / "b")


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    text = plan(SEEDS, 3)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert run(text, tmp_path / "a")[0].exit_code == 0
    interrupt = Interrupt()

    class Stops(Recorder):
        def epoch_done(self, name: str, epoch: int, metrics: Any) -> None:
            interrupt.request()  # while the first member's epoch ends

    store = Store(tmp_path / "b" / "store")
    whole = compiled(text, store, tmp_path)
    events = Stops()
    stopped = run_plan(
        whole.plan, whole.planned, whole.keys, store, RunOptions(device="cpu"), events, interrupt=interrupt
    )
    assert stopped.exit_code == 75 and stopped.trained == []
    again, events = run(text, tmp_path / "b")
    assert again.exit_code == 0 and {*events.starts.values()} == {4}
    assert bits(text, tmp_path / "a") == bits(text, tmp_path / "b")


# ---- what each member keeps of its own


OTHERS = """
recipe other = quick { optimizer = OPTIMIZER  EXTRA }
student small = digits_net(width = 2)
phase p of small on digits with other { loss = cross_entropy(small.logits, labels) }
"""
WITH = [
    ("adam(lr = 0.01)", ""),
    ("adamw(lr = 0.01, weight_decay = 0.1)", "clip = 0.5"),
    ("sgd(lr = 0.1)", "accumulate = 2  batch = 16  warmup = 1  on_nan = skip"),
    ("sgd(lr = 0.1, momentum = 0.9, dampening = 0.5)", "clip = 1  ema = 0.9  keep_epochs = [1]"),
    ("adagrad(lr = 0.05)", "steps = 9"),
]


@pytest.mark.parametrize(("optimizer", "extra"), WITH)
def test_recipes_agree(optimizer: str, extra: str, tmp_path: Path) -> None:
    text = "param seed in 0..2\n" + DATA + RECIPE + OTHERS.replace("OPTIMIZER", optimizer).replace("EXTRA", extra)
    both(text, tmp_path, 5e-4)


USERS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.one = nn.Linear(64, 12)
        self.drop = nn.Dropout(0.5)
        self.two = nn.Linear(12, classes)

    def forward(self, x):
        x = torch.relu(self.one(x.flatten(1)))
        return self.two(nn.functional.dropout(self.drop(x), 0.2, self.training))
"""


def test_dropout_draws_what_each_phase_alone_draws(tmp_path: Path) -> None:
    """A network of a user's, of which a graph holds all: layers and functions that drop, by its own seed."""
    (tmp_path / "net.py").write_text(USERS)
    text = 'use "net.py" as my\nparam seed in 0..2\n' + DATA + RECIPE + "student small = my.Net()\n" + PHASE
    both(text, tmp_path)


def test_validation_and_the_best_epoch_are_each_members_own(tmp_path: Path) -> None:
    text = SEEDS.replace("labels) }", "labels)\n  measure on digits.test { cross_entropy } }")
    together = both(text, tmp_path)
    assert {a.summary["measure"] for a in together.values()} == {"cross_entropy"}
    assert len({a.summary["best"]["score"] for a in together.values()}) == 3


def test_specialists_of_other_data(tmp_path: Path) -> None:
    """Members may have other samples, more or fewer steps in an epoch, and ends of their own."""
    text = (
        "data digits = digits { limit = 150 }\n"
        "verticals parts of digits { low = 0..2  mid = 3..5  rest = 6..8  ten = [9] }\n"
        + RECIPE
        + "teacher t[v in parts] = digits_net(width = 2, classes = v) {\n"
        "  phase train on digits[v] with quick { batch = 8  loss = cross_entropy(self.logits, labels) }\n}\n"
    )
    together = both(text, tmp_path)
    assert len({a.summary["steps"] for a in together.values()}) > 1
    assert sum("stack" in a.json("environment.json") for a in together.values()) == 3


def test_nan_of_one_member_is_its_own(tmp_path: Path) -> None:
    """The others go on to their ends."""
    text = (
        "param rate in [0.1, 1e30, 0.05]\n" + DATA + RECIPE + NETWORK
        + "phase p of small on digits with quick { optimizer = sgd(lr = rate)\n"
        "  loss = cross_entropy(small.logits, labels) }\n"
    )  # fmt: skip
    result, events = run(plan(text, 3), tmp_path)
    assert len(events.stacks) == 1 and result.exit_code == 1
    assert [*result.failed] == ["p[rate=1e+30]"] and len(result.trained) == 2
    (problem,) = result.failed.values()
    assert {d.code for d in problem.diagnostics} <= {"KD0820", "KD0826"}
    (tmp_path / "plain").mkdir()
    run(plan(text, "off"), tmp_path / "plain", keep_going=True)
    alone, store = Store(tmp_path / "plain" / "store"), Store(tmp_path / "store")
    for name in result.trained:
        keys = [compiled(plan(text, s), Store(tmp_path), tmp_path).keys[name].key for s in ("off", 3)]
        assert_close(store.verify(keys[1]), alone.verify(keys[0]))


@pytest.mark.parametrize("policy", ["skip", "rollback(times = 1)"])
def test_policies_of_one_member(policy: str, tmp_path: Path) -> None:
    """One member cannot go on; with `skip` it leaves steps out, with `rollback` it goes back and fails."""
    text = (
        "param rate in [0.1, 1e30]\n" + DATA + RECIPE + NETWORK
        + "phase p of small on digits with quick { optimizer = sgd(lr = rate)\n"
        "  loss = cross_entropy(small.logits, labels) }\n"
    )  # fmt: skip
    outcomes = []
    for stack in ("off", 2):
        folder = tmp_path / str(stack)
        folder.mkdir()
        result, events = run(plan(text, stack, f"on_nan = {policy}"), folder, keep_going=True)
        outcomes.append((sorted(result.trained), sorted(result.failed)))
        codes = [[d.code for d in p.diagnostics] for p in result.failed.values()]
        outcomes[-1] += (codes,)
        assert len(events.stacks) == (stack == 2), events.notes
    assert outcomes[0] == outcomes[1]


def test_a_plateau_ends_each_member_by_itself(tmp_path: Path) -> None:
    text = SEEDS.replace("schedule = cosine()", "schedule = plateau(patience = 1, min_delta = 0.3, until = 0.09)")
    together = both(text.replace("epochs = 3", "epochs = 6"), tmp_path)
    assert all(a.summary["epochs"] <= 6 for a in together.values())


# ---- what does not stack


BRANCHING = USERS.replace("x = torch.relu", "x = x if float(x.sum()) < 1e9 else -x\n        x = torch.relu")


def test_what_does_not_stack_trains_alone_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(BRANCHING)
    text = 'use "net.py" as my\nparam seed in 0..2\n' + DATA + RECIPE + "student small = my.Net()\n" + PHASE
    result, events = run(plan(text, 3), tmp_path)
    assert result.exit_code == 0 and len(result.trained) == 3 and events.stacks == []
    reasons = [n for n in events.notes if n.startswith("KD1010")]
    assert len(reasons) == 1 and "alone" in reasons[0], events.notes
    for artifact in artifacts(plan(text, 3), tmp_path).values():
        assert "stack" not in artifact.json("environment.json")


@pytest.mark.parametrize("setting", ["precision = bf16", "channels_last = true"])
def test_settings_that_do_not_stack(setting: str, tmp_path: Path) -> None:
    result, events = run(plan(SEEDS, 3, setting), tmp_path)
    assert result.exit_code == 0 and events.stacks == []
    assert [n for n in events.notes if "KD1010" in n and setting.split()[0] in n]


def test_a_stack_that_gives_other_numbers_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a rule of torch.func were wrong."""
    monkeypatch.setattr(stack_trial, "_close", lambda one, other, floor: False)
    result, events = run(plan(SEEDS, 3), tmp_path)
    assert result.exit_code == 0 and events.stacks == []
    assert "a stack gives other numbers" in "".join(events.notes)


def test_a_stack_that_cannot_go_on_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = plan(SEEDS, 3)
    with pytest.raises(SystemExit):
        run(text, tmp_path, Recorder(3), checkpoint_steps=5)
    monkeypatch.setattr(stack_trial, "_close", lambda one, other, floor: False)
    result, events = run(text, tmp_path)
    assert result.exit_code == 0 and len([n for n in events.notes if n.startswith("KD1011")]) == 3
    assert len(events.starts) == 3 and min(events.starts.values()) >= 4


def test_another_process_holds_a_member(tmp_path: Path) -> None:
    """Two are stacked meanwhile; the third is trained when it is free."""
    text = plan(SEEDS, 3)
    store = Store(tmp_path / "store")
    whole = compiled(text, store, tmp_path)
    names = list(whole.planned)
    with store.begin(whole.keys[names[0]].key):
        result, events = run(text, tmp_path, wait=False, keep_going=True)
    assert (result.trained, [*result.failed], result.exit_code) == (names[1:], names[:1], 3)
    assert events.stacks == [f"{names[1]} and 1 other: trained as one, in a stack of 2"]
    result, events = run(text, tmp_path)
    assert result.trained == names[:1] and result.cached == names[1:] and events.stacks == []


def test_auto_measures_once_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [stack_trial.Times(1.0, 0.5), stack_trial.Times(1.0, 2.0)]
    monkeypatch.setattr(stack_trial, "_times", lambda *_: times.pop(0))
    result, events = run(plan(SEEDS, "auto"), tmp_path)
    assert result.exit_code == 0 and len(events.stacks) == 1 and len(times) == 1
    again = plan(SEEDS, "auto").replace("0..2", "3..5")
    result, events = run(again, tmp_path)
    assert len(events.stacks) == 1 and len(times) == 1  # the shape is known
    result, events = run(again.replace("3..5", "6..7"), tmp_path)
    assert events.stacks == [] and times == []
    assert "a stack of 2 takes 2.00 of the time of its phases alone" in "".join(events.notes)
    result, events = run(again.replace("3..5", "8..9"), tmp_path)
    assert result.exit_code == 0 and events.stacks == [] and times == []


def test_workers_train_one_phase_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "plan.kd").write_text(plan(SEEDS, 3))
    assert main(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--jobs", "1"]) == 0
    out = capsys.readouterr()
    assert "KD1013" in out.out + out.err and "trained as one" not in out.out + out.err
    for artifact in artifacts(plan(SEEDS, 3), tmp_path).values():
        assert "stack" not in artifact.json("environment.json")


def test_status_shows_the_stack(tmp_path: Path) -> None:
    text = plan(SEEDS, 3)
    run(text, tmp_path)
    store = Store(tmp_path / "store")
    whole = compiled(text, store, tmp_path)
    assert [s.stack for s in status(whole.planned, store, whole.plan)] == [3, 3, 3]
