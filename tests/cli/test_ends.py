"""How a run ends when its terminal, its reader or its scheduler goes: real processes, real pipes, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdplan.runtime.interrupt import STOPS
from tests.cli.conftest import PLAN, Kdplan
from tests.cli.test_run import environment
from tests.processes import DEVNULL, PIPE, STDOUT, Command

RUN = [sys.executable, "-m", "kdplan", "run", "a.kd"]
LONG = PLAN.replace("epochs = 1", "epochs = 400", 1)


def _wait_for(what: str, folder: Path, process: Command) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(what)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_the_reader_goes_and_the_run_goes_on(folder: Path) -> None:
    """As in `kdplan run a.kd | head -1`."""
    process = Command(["run", "a.kd"], stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() != ""
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    said = process.stderr.read()
    assert "the reader of the output has gone; the run goes on" in said and "Traceback" not in said
    assert len(list(folder.glob(".kdplan/phases/*"))) == 2


def test_both_readers_go(folder: Path) -> None:
    process = Command(["run", "a.kd"], stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert len(list(folder.glob(".kdplan/phases/*"))) == 2


def test_output_that_cannot_be_written_is_a_failure(folder: Path) -> None:
    """The phases are trained; the tables are lost, which must not look like success."""
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w") as full:
        ran = Command(["run", "a.kd"], stdout=full, stderr=PIPE)
    _, said = ran.communicate(timeout=120)
    assert ran.returncode == 1
    assert "standard output is lost: No space left on device" in said
    assert len(list(folder.glob(".kdplan/phases/*"))) == 2


@pytest.mark.parametrize("command", [["plan", "a.kd", "--json"], ["schema"], ["check", "a.kd"]])
def test_commands_whose_reader_has_gone_end_as_they_would(folder: Path, command: list[str]) -> None:
    process = Command(command, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_before_the_first_step(folder: Path, number: signal.Signals) -> None:
    """While torch is imported, graphs are built or the device is chosen."""
    code = (
        "import sys, kdplan.cli as cli, kdplan.compile as c\n"
        "def slow(*a, **b):\n"
        "    print('here', flush=True)\n"
        "    import time; time.sleep(60)\n"
        "import kdplan.cli.run as run\n"
        "run.inspect = slow\n"
        "sys.exit(cli.main(['run', 'a.kd']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=-1, stderr=-1)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == b"here\n"
    process.send_signal(number)
    assert process.wait(timeout=30) == 75
    said = process.stderr.read().decode()
    assert said == f"stopped by {number.name}; the same command goes on where this one stopped\n"


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_within_a_phase(kdplan: Kdplan, folder: Path, number: signal.Signals) -> None:
    (folder / "a.kd").write_text(LONG)
    process = Command(["run", "a.kd"], stdout=DEVNULL, stderr=PIPE)
    assert process.stderr is not None
    _wait_for(".kdplan/work/*/metrics.jsonl", folder, process)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75
    said = process.stderr.read()
    assert said == f"interrupted in big@train by {number.name}; the same command resumes there\n"
    assert kdplan("plan", "a.kd", "--no-cost", "--json").phases["big@train"]["action"] == "resume"


def test_a_hang_up_that_was_to_be_ignored(folder: Path) -> None:
    """`nohup kdplan run a.kd`."""
    process = subprocess.Popen(["nohup", *RUN], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    process.stdout.read()
    assert process.wait(timeout=120) == 0


def test_user_code_that_ends_the_process_is_a_failure(kdplan: Kdplan, folder: Path) -> None:
    """In a step of training that only a real run reaches."""
    (folder / "mine.py").write_text(
        "import sys, torch\n"
        "def late(logits, labels):\n"
        "    if not isinstance(logits, torch._subclasses.FakeTensor) and len(labels) == 50:\n"
        "        sys.exit()\n"
        "    return logits.square().mean()\n"
    )
    plan = 'use "mine.py" as mine\n' + PLAN.replace(
        "loss = cross_entropy(self.logits, labels)", "loss = mine.late(self.logits, labels)"
    )
    (folder / "a.kd").write_text(plan)
    ran = kdplan("run", "a.kd")
    assert ran.code in (1, 2), "never 0"
    assert "it ends the process with `sys.exit`" in ran.err + ran.out and "mine.py:4" in ran.err + ran.out
