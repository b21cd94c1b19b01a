"""run, and after it caching, reasons and exports; exit codes of runs that fail or are interrupted."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.runtime.store import Store
from tests.cli.conftest import PLAN, Kdplan
from tests.processes import DEVNULL, PIPE, Command

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which the plan has run once."""
    here = tmp_path_factory.mktemp("trained")
    (here / "a.kd").write_text(PLAN)
    assert main(["run", str(here / "a.kd"), "--store", str(here / ".kdplan")]) == 0
    return here


@pytest.fixture
def done(trained: Path, folder: Path) -> Path:
    """The working folder with a copy of that store; the plan's last keys are kept by its path, so it runs once more."""
    shutil.copytree(trained / ".kdplan", folder / ".kdplan")
    assert main(["run", "a.kd"]) == 0
    return folder


def test_run_shows_the_table_and_writes_it(kdplan: Kdplan, done: Path) -> None:
    ran = kdplan("run", "a.kd", "--csv", "csv")
    assert ran.code == 0 and "2 cached" in ran.out and "small@kd" in ran.out
    head, *rows = (done / "csv" / "table.csv").read_text().splitlines()
    assert head.startswith("network,") and len(rows) == 2


def test_nothing_to_do(kdplan: Kdplan, done: Path) -> None:
    assert kdplan("plan", "a.kd", "--detailed-exitcode").code == 0
    assert {p["action"] for p in kdplan("plan", "a.kd", "--json").json["phases"]} == {"cached"}


def test_an_edit_runs_what_it_touches(kdplan: Kdplan, done: Path) -> None:
    (done / "a.kd").write_text(PLAN.replace("param weight = 0.9", "param weight = 0.5"))
    phases = kdplan("plan", "a.kd", "--no-cost", "--json").phases
    assert phases["big@train"]["action"] == "cached" and phases["kd"]["action"] == "rerun"
    text = kdplan("why", "a.kd", "kd").out
    assert "0.9" in text and "0.5" in text and "a.kd:2:16" in text
    assert kdplan("run", "a.kd").code == 0
    assert kdplan("run", "a.kd").out.count("cached") >= 1


def test_comments_and_names_run_nothing(kdplan: Kdplan, done: Path) -> None:
    text = "# a comment\n" + PLAN.replace("quick", "swift").replace("param epochs = 1\n", "param epochs = 1 # short\n")
    (done / "a.kd").write_text(text)
    assert kdplan("plan", "a.kd", "--no-cost", "--detailed-exitcode").code == 0


def test_status_after_a_run(kdplan: Kdplan, done: Path) -> None:
    assert "done" in kdplan("status", "a.kd").out


def test_status_and_plan_say_the_same_step(kdplan: Kdplan, folder: Path) -> None:
    key = kdplan("plan", "a.kd", "--no-cost", "--json").phases["big@train"]["key"]
    with Store(folder / ".kdplan").begin(key) as work:
        work.log({"step": 7, "epoch": 1, "loss": 2.0})
        work.save_checkpoint(7, {}, {})
        work.log({"step": 9, "epoch": 1, "loss": 1.5})
    states = {p["name"]: p for p in kdplan("status", "a.kd", "--json").json["phases"]}
    assert (states["big@train"]["step"], states["big@train"]["seen"]) == (7, 9)
    total = states["big@train"]["total"]
    assert f"7 / {total}, seen 9" in kdplan("status", "a.kd").out
    assert "at step 7" in kdplan("why", "a.kd", "big@train").out
    assert kdplan("plan", "a.kd", "--json").phases["big@train"]["resume_step"] == 7


def test_export(kdplan: Kdplan, done: Path) -> None:
    import torch

    from kdplan.runtime.export import load

    ran = kdplan("export", "a.kd", "tiny", "-o", "out", "--program")
    assert ran.code == 0 and "loaded again, and its outputs are equal" in ran.out
    assert {f.name for f in (done / "out").iterdir()} == {"model.json", "model.safetensors", "model.pt2"}
    assert load(done / "out")(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_store_by_variable_and_option(kdplan: Kdplan, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.move(done / ".kdplan", done / "elsewhere")
    assert kdplan("plan", "a.kd", "--no-cost", "--detailed-exitcode").code == 10
    assert kdplan("plan", "a.kd", "--no-cost", "--detailed-exitcode", "--store", "elsewhere").code == 0
    monkeypatch.setenv("KDPLAN_STORE", "elsewhere")
    assert kdplan("plan", "a.kd", "--no-cost", "--detailed-exitcode").code == 0


def test_a_failing_phase_exits_with_1(kdplan: Kdplan, folder: Path) -> None:
    (folder / "a.kd").write_text(PLAN.replace("sgd(lr = 0.1)", "sgd(lr = 1e30)").replace("epochs = 1", "epochs = 4"))
    ran = kdplan("run", "a.kd")
    assert ran.code == 1, ran.out + ran.err
    assert "KD0820" in ran.out + ran.err


def test_a_missing_device_is_an_error_before_anything_runs(kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("run", "a.kd", "--device", "cuda:99")
    assert ran.code == 2 and "KD0810" in ran.err
    assert not (folder / ".kdplan" / "phases").exists()


def test_two_runs_at_once(kdplan: Kdplan, folder: Path) -> None:
    key = kdplan("plan", "a.kd", "--no-cost", "--json").phases["big@train"]["key"]
    with Store(folder / ".kdplan").begin(key):
        other = Command(["run", "a.kd", "--no-wait"], stdout=PIPE, stderr=PIPE)
        said = "".join(other.communicate(timeout=120))
    assert other.returncode == 3, said
    assert "KD0901" in said and str(os.getpid()) in said


def test_a_damaged_teacher_is_trained_again(kdplan: Kdplan, done: Path) -> None:
    (weights,) = {f for f in (done / ".kdplan" / "phases").glob("*/weights-0-last.safetensors") if _is_teacher(f)}
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    (done / "a.kd").write_text(PLAN.replace("param weight = 0.9", "param weight = 0.3"))
    ran = kdplan("run", "a.kd")
    assert ran.code == 0, ran.out + ran.err
    assert "KD0915" in ran.out + ran.err and "big@train: done" in ran.out + ran.err


def _is_teacher(weights: Path) -> bool:
    return '"big@train"' in (weights.parent / "phase.json").read_text().split('"components"')[0]


def test_interrupted_and_resumed(kdplan: Kdplan, folder: Path) -> None:
    (folder / "a.kd").write_text(PLAN.replace("epochs = 1", "epochs = 400", 1))
    process = Command(["run", "a.kd"], stdout=DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob(".kdplan/work/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 75
    phases = kdplan("plan", "a.kd", "--no-cost", "--json").phases
    assert phases["big@train"]["action"] == "resume"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_finished_steps_cost_nothing(kdplan: Kdplan, done: Path) -> None:
    """Of a longer phase and of an interrupted one, the plan shows what is left."""
    short = kdplan("plan", "a.kd", "--json").phases["big@train"]["cost"]
    ran = kdplan("plan", "a.kd", "--json", "--set", "epochs=5")
    extended = ran.phases["big@train"]
    assert extended["action"] == "extend"
    assert extended["cost"]["steps"] == 4 * short["steps"]
    assert extended["cost"]["flops_step"] == short["flops_step"]
    assert extended["cost"]["seconds"] < 4.5 * short["seconds"]
    key = extended["key"]
    store = Store(done / ".kdplan")
    with store.begin(key) as work:
        work.save_checkpoint(3, {"state": b"1"}, {})
    resumed = kdplan("plan", "a.kd", "--json", "--set", "epochs=5").phases["big@train"]
    assert (resumed["action"], resumed["cost"]["steps"]) == ("resume", 5 * short["steps"] - 3)


@pytest.mark.parametrize(
    ("old", "new", "phase", "text", "values", "line"),
    [
        ("digits_net(width = 2)", "digits_net(width = 3)", "kd", "the network's width changed", ("2", "3"), 16),
        ("digits_net(width = 2)", "mlp(inputs = 64, classes = 10)", "kd", "the network's architecture changed",
         ("digits_net", "mlp"), 16),
        ("digits_net(width = 4)", "digits_net(width = 5)", "big@train", "the network's width changed", ("4", "5"), 12),
        ("limit = 100", "limit = 90", "kd", "the data's limit changed", ("100", "90"), 4),
        ("limit = 100 }", "limit = 100  augment = [flip()] }", "kd", "the data's augment is new", None, 4),
    ],
)  # fmt: skip
def test_why_names_what_a_network_and_data_are_made_of(
    kdplan: Kdplan, done: Path, old: str, new: str, phase: str, text: str, values: tuple[str, str] | None, line: int
) -> None:
    """Not only that the hash of what it starts from is another."""
    (done / "a.kd").write_text(PLAN.replace(old, new))
    reasons = kdplan("why", "a.kd", phase, "--json").json["reasons"]
    (found,) = [r for r in reasons if r["text"] == text]
    assert found["at"].startswith(f"a.kd:{line}:")
    assert values is None or (found["before"], found["after"]) == values
    assert not any("starts from" in r["text"] or r["text"] == "the data changed" for r in reasons)


@pytest.mark.parametrize("moved", [False, True])
def test_reasons_survive_a_copy(kdplan: Kdplan, done: Path, moved: bool) -> None:
    """A plan file that is copied or renamed, and then edited, is compared with what its first file ran."""
    (done / "b.kd").write_text(PLAN.replace("weight = 0.9", "weight = 0.5"))
    if moved:
        (done / "a.kd").unlink()
    (reason,) = kdplan("plan", "b.kd", "--no-cost", "--json").phases["kd"]["reasons"]
    assert (reason["kind"], reason["before"], reason["after"]) == ("changed", "0.9", "0.5")


def test_another_plan_is_no_copy(kdplan: Kdplan, done: Path) -> None:
    """A plan that shares a few lines has no reasons of the other."""
    other = (
        "data cifar = digits\nrecipe r { optimizer = adam(lr = 0.2)  epochs = 3 }\nstudent s = digits_net(width = 7)\n"
    )
    (done / "b.kd").write_text(other + "phase kd of s on cifar with r { loss = cross_entropy(s.logits, labels) }\n")
    (reason,) = kdplan("plan", "b.kd", "--no-cost", "--json").phases["kd"]["reasons"]
    assert reason["kind"] == "new"


def test_measures_before_an_error_are_printed(folder: Path, kdplan: Kdplan) -> None:
    """The end of a plateau is not known before, so neither is the snapshot."""
    recipe = "epochs = 9  schedule = plateau(patience = 1, until = 0.9)  keep_epochs = [9]"
    text = PLAN.replace(
        "phase kd of small on digits with quick {", f"phase kd of small on digits with quick {{ {recipe}"
    )
    text += (
        "measure late of small@kd[epoch = 9] on digits.test { top1 }\nmeasure after of big on digits.test { error }\n"
    )
    (folder / "a.kd").write_text(text)
    ran = kdplan("run", "a.kd")
    assert ran.code == 2 and "KD0832" in ran.err
    assert ran.out.index("small@kd") < ran.out.index("┃ error ┃"), "the first table and the last"
