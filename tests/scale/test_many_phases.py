"""Several runs of one plan with many tiny phases: each phase is trained once, and the weights are those of one run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command

PHASES, RUNS = 80, 4
LEASES = {"KDPLAN_LOCKS": "lease", "KDPLAN_LEASE_SECONDS": "30"}
PLAN = """\
param seed in 0..LAST
data digits = digits { limit = 40 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 20 }
student small = mlp(inputs = 64, hidden = [2])
phase first of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase then of small@first on digits with quick { loss = cross_entropy(small.logits, labels) }
"""


def start(folder: Path, store: str, **settings: str) -> Command:
    arguments = ["run", "plan.kd", "--store", store]
    return Command(arguments, cwd=folder, env=environment() | settings, stdout=PIPE, stderr=STDOUT)


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


@pytest.mark.parametrize("settings", [{}, LEASES], ids=["locks", "leases"])
def test_three_runs_of_ten_phases(settings: dict[str, str], tmp_path: Path) -> None:
    share(tmp_path, 10, 3, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, LEASES], ids=["locks", "leases"])
def test_four_runs_of_eighty_phases(settings: dict[str, str], tmp_path: Path) -> None:
    share(tmp_path, PHASES, RUNS, **settings)
