"""Several runs of one plan with many tiny phases: each phase is trained once, and the weights are those of one run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_run import environment

PHASES, RUNS = 80, 4
PLAN = """\
param seed in 0..LAST
data digits = digits { limit = 40 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 20 }
student small = mlp(inputs = 64, hidden = [2])
phase first of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase then of small@first on digits with quick { loss = cross_entropy(small.logits, labels) }
"""


def start(folder: Path, store: str, **settings: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdplan", "run", "plan.kd", "--store", store]
    return subprocess.Popen(
        command, cwd=folder, env=environment() | settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def weights(store: Path) -> dict[str, str]:
    files = store.glob("phases/*/weights-*")
    return {f"{p.parent.name}/{p.name}": hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def share(folder: Path, phases: int, runs: int, **settings: str) -> None:
    (folder / "plan.kd").write_text(PLAN.replace("LAST", str(phases // 2 - 1)))
    alone = start(folder, "alone")
    said = alone.communicate(timeout=900)[0]
    assert alone.returncode == 0, said
    together = [start(folder, "store", **settings) for _ in range(runs)]
    texts = [process.communicate(timeout=900)[0] for process in together]
    assert [process.returncode for process in together] == [0] * runs, "\n".join(texts)
    trained = [line.partition(":")[0] for text in texts for line in text.splitlines() if ": starts, " in line]
    assert len(trained) == len(set(trained)) == phases, sorted(trained)
    assert sum(": starts, " in text for text in texts) > 1, "more than one process trained"
    assert weights(folder / "store") == weights(folder / "alone") and len(weights(folder / "alone")) == phases
    assert not list((folder / "store" / "work").iterdir())


def test_four_runs_of_eighty_phases(tmp_path: Path) -> None:
    share(tmp_path, PHASES, RUNS)


@pytest.mark.slow
def test_four_runs_of_eighty_phases_with_leases(tmp_path: Path) -> None:
    share(tmp_path, PHASES, RUNS, KDPLAN_LOCKS="lease", KDPLAN_LEASE_SECONDS="30")
