"""Forked commands are processes: exit codes, outputs, folders, environments and signals of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command


def test_a_command_ends_as_python_m_kdplan_does(tmp_path: Path) -> None:
    (tmp_path / "wrong.kd").write_text("data digits = digit\n")
    env = environment() | {"COLUMNS": "200"}
    for words in (["check", "wrong.kd"], ["check", "absent.kd"], ["schema"], ["nothing"]):
        real = subprocess.run(
            [sys.executable, "-m", "kdplan", *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
        forked = Command(words, cwd=tmp_path, env=env, stdout=PIPE, stderr=PIPE)
        out, err = forked.communicate(timeout=60)
        assert (forked.returncode, out, err) == (real.returncode, real.stdout, real.stderr)


def test_a_command_is_stopped_and_killed(tmp_path: Path) -> None:
    waits = "import os, time; print(os.getpid(), os.getcwd(), os.environ['OWN'], flush=True); time.sleep(60)"
    process = Command([], cwd=tmp_path, env={"OWN": "yes"}, stdout=PIPE, stderr=STDOUT, before=waits)
    assert process.stdout is not None
    assert process.stdout.readline() == f"{process.pid} {tmp_path} yes\n" and process.pid != os.getpid()
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM == process.poll()
