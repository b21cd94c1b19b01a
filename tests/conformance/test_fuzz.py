"""Random networks are computed as plain PyTorch does: in the graph, as leaves, or called whole.

`KDPLAN_FUZZ=2000 pytest -m slow tests/conformance/test_fuzz.py` tries as many; `KDPLAN_FUZZ_SEED` gives other ones.
A failure shows the smallest file with which it happens.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from safetensors.torch import load_file
from torch.nn import functional as F

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.data.loader import Loader
from kdplan.diagnostics.span import Source
from kdplan.graph.inspect import fresh
from kdplan.ir.seed import fold
from kdplan.runtime.checkpoint import reseed
from kdplan.runtime.views import opened
from tests.conformance.fuzz import Case, cases
from tests.conformance.fuzz_run import logits_of, run
from tests.conformance.plain import CPU

QUICK, MANY = 60, int(os.environ.get("KDPLAN_FUZZ", "300"))
SEED = int(os.environ.get("KDPLAN_FUZZ_SEED", "0"))
_ALL = settings(
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
    print_blob=False,
)


def _check(case: Case, folder: Path) -> str:
    result = run(case, folder)
    assert not result.fault, f"{result.kind}: {result.detail}\n{case}"
    return result.kind


@settings(_ALL, max_examples=QUICK, derandomize=True)
@given(cases(most=4))
def test_random_networks(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    _check(case, tmp_path_factory.getbasetemp())


@pytest.mark.slow
def test_many_random_networks(tmp_path: Path) -> None:
    kinds: Counter[str] = Counter()

    @seed(SEED)
    @settings(_ALL, max_examples=MANY)
    @given(cases())
    def check(case: Case) -> None:
        kinds[_check(case, tmp_path)] += 1

    check()
    print(dict(kinds))
    assert kinds["graph"] + kinds["leaf"] > sum(kinds.values()) / 2


# ---- through the command line

PLAN = """use "net.py" as my
data own = arrays("DATA")
recipe quick { optimizer = sgd(lr = 0.1)  steps = 5  batch = 6 }
student n = my.Net()
phase alone of n on own with quick { loss = cross_entropy(n.logits, labels) }
"""


def _by_hand(folder: Path) -> dict[str, torch.Tensor]:
    """The weights and buffers that a plain loop over the same batches leaves."""
    text = (folder / "plan.kd").read_text()
    plan = compile_source(Source("plan.kd", text), folder).plan
    [phase] = plan.phases.values()
    net = fresh(plan.networks["n"]).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loader = Loader(opened(plan, phase.streams[0], None, CPU), 6, phase.seed, train=True)
    for step, batch in enumerate(itertools.islice(itertools.chain(loader.epoch(0), loader.epoch(1)), 5)):
        reseed(fold(phase.seed, "step", step), CPU)
        optimizer.zero_grad()
        F.cross_entropy(logits_of(net(batch["inputs"].clone())), batch["labels"]).backward()
        optimizer.step()
    return {name: value.detach() for name, value in net.state_dict().items()}


@settings(_ALL, max_examples=4, derandomize=True)
@given(case=cases(most=3))
def test_whole_runs(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    """As a plan, a case is trained to the weights of a plain loop, or refused with a line of the user's file."""
    folder = tmp_path_factory.mktemp("run")
    random = np.random.default_rng(0)
    np.savez(folder / "data.npz", x=random.normal(size=(20, 4)).astype("float32"), y=np.arange(20) % 4)
    (folder / "net.py").write_text(case.source)
    (folder / "plan.kd").write_text(PLAN.replace("DATA", str(folder / "data.npz")))
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        exit_code = main(["run", str(folder / "plan.kd"), "--store", str(folder / "store"), "--device", "cpu"])
    shown = f"{output.getvalue()}\n{case}"
    assert "Traceback" not in shown, shown
    if exit_code:
        assert "KD" in output.getvalue() and "net.py:" in output.getvalue(), shown
        return
    weights = load_file(next((folder / "store" / "phases").glob("*/weights-*.safetensors")))
    expected = _by_hand(folder)
    for name, value in weights.items():
        near = torch.allclose(value, expected[name], rtol=1e-4, atol=1e-6, equal_nan=True)
        assert near, f"{name}: {value} and {expected[name]}\n{shown}"
