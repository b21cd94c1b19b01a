"""A user's network is compared with its graph before a phase trains, and called whole where they differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kdplan.cli import main as kdplan
from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.span import Source
from kdplan.graph.compare import Verdict, compare
from kdplan.graph.inspect import fresh
from kdplan.graph.trace import trace
from kdplan.nn.whose import is_users
from tests.conformance.test_state import IN_THE_GRAPH, WHOLE, Stateful, Step

X = (torch.linspace(-1, 1, 24).reshape(6, 4),)
TICKS = iter(range(10_000))


class Layered(nn.Module):
    """A linear layer, and what `step` makes of its output."""

    def __init__(self, step: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.step = step
        self.before: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, self.body(x))


def previous(m: Any, f: Tensor) -> Tensor:
    """An attribute that is none at first: the trace sees only the first step."""
    out = f if m.before is None else f + m.before
    m.before = f.detach()
    return out


def kept_of_the_first_step(m: Any, f: Tensor) -> Tensor:
    """As a data-dependent initialisation does."""
    if m.before is None:
        m.before = f.detach().mean(0)
    return f - m.before


def kept_under_a_new_name(m: Any, f: Tensor) -> Tensor:
    past = getattr(m, "past", f.detach())
    m.past = f.detach()
    return f + past


def previous_in_a_list(m: Any, f: Tensor, kept: list[Tensor] = []) -> Tensor:  # noqa: B006 - the mistake
    kept.append(f.detach())
    return f + sum(kept)


def clock(m: Any, f: Tensor) -> Tensor:
    return f * next(TICKS)


def own_product(m: Any, f: Tensor) -> Tensor:
    return f.detach().clone().requires_grad_(False) + f


@pytest.mark.parametrize("step", IN_THE_GRAPH, ids=lambda s: s.__name__)
def test_state_in_the_graph_is_equal(step: Step) -> None:
    assert compare(Stateful(step), X) == Verdict()


@pytest.mark.parametrize("step", WHOLE, ids=lambda s: s.__name__)
def test_what_is_called_whole_is_equal(step: Step) -> None:
    verdict = compare(Stateful(step), X)
    assert not verdict.differs and not verdict.unstable


@pytest.mark.parametrize("step", [previous, kept_of_the_first_step, kept_under_a_new_name], ids=lambda s: s.__name__)
def test_what_the_trace_does_not_see_is_a_difference(step: Callable[[Any, Tensor], Tensor]) -> None:
    verdict = compare(Layered(step), X)
    assert "outputs" in verdict.differs and "outputs" in verdict.lost


def test_two_runs_that_differ_are_unstable() -> None:
    assert "outputs" in compare(Layered(clock), X).unstable


def test_what_a_function_of_a_network_keeps_is_put_back() -> None:
    verdict = compare(Layered(previous_in_a_list), X)
    assert (verdict.unstable, verdict.kept) == ("", ("a default of previous_in_a_list",))
    assert "outputs" in verdict.differs
    assert compare(Layered(previous_in_a_list), X) == verdict


def test_a_plain_network_is_equal() -> None:
    assert compare(Layered(own_product), X) == Verdict()


def test_comparing_changes_nothing() -> None:
    net = Layered(previous)
    before, state = {n: p.clone() for n, p in net.named_parameters()}, torch.random.get_rng_state()
    compare(net, X)
    assert net.before is None and net.body.weight.grad is None
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_only_a_users_networks_are_compared() -> None:
    assert is_users(nn.Sequential(Layered(clock)))
    assert not is_users(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)))


# ---- whole plans

HEAD = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.drop = nn.Linear(64, 16), nn.Linear(16, 10), nn.Dropout(0.5)
        self.register_buffer("center", torch.zeros(16))
        self.t, self.before = 0, None

    def forward(self, x):
        f = self.body(x.flatten(1))
"""
PLAN = """
use "net.py" as net
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 2  batch = 64 }
student small = net.Net()
phase alone of small on digits with quick { loss = LOSS }
"""


def write(folder: Path, body: str, loss: str = "cross_entropy(small.logits, labels)") -> str:
    (folder / "net.py").write_text(HEAD + "".join(f"        {line}\n" for line in body.splitlines()))
    return PLAN.replace("LOSS", loss)


def run(folder: Path, text: str) -> tuple[dict[str, Tensor], float]:
    """The weights and the last loss of a plan with one phase."""
    (folder / "plan.kd").write_text(text)
    assert kdplan(["run", str(folder / "plan.kd"), "--store", str(folder / "store"), "--device", "cpu"]) == 0
    phase = next((folder / "store" / "phases").iterdir())
    record = json.loads((phase / "metrics.jsonl").read_text().splitlines()[-1])
    return load_file(next(phase.glob("weights-*.safetensors"))), record["loss"]


def test_what_a_graph_does_not_hold_is_a_warning(tmp_path: Path) -> None:
    found = check_text(write(tmp_path, "self.t += 1\nreturn self.head(f) / self.t"), folder=tmp_path)
    assert [d.code for d in found] == ["KD0540", "KD0541"]
    assert found[0].message == "`small` is called whole: it changes the Python attribute `t`."
    assert "register_buffer" in str(found[1].help)


def test_state_in_no_buffer_is_a_warning(tmp_path: Path) -> None:
    body = "self.drawn = getattr(self, 'drawn', None) or torch.Generator().manual_seed(3)\n"
    body += "return self.head(f + torch.randn(16, generator=self.drawn))"
    assert "KD0546" in [d.code for d in check_text(write(tmp_path, body), folder=tmp_path)]


def test_values_that_are_only_kept_are_no_state(tmp_path: Path) -> None:
    body = "self.seen = f.detach()\nreturn self.head(f)"
    assert check_text(write(tmp_path, body), folder=tmp_path) == []


def test_a_difference_is_a_warning(tmp_path: Path) -> None:
    body = "out = f if self.before is None else f + self.before\nself.before = f.detach()\nreturn self.head(out)"
    found = check_text(write(tmp_path, body), folder=tmp_path)
    assert [d.message for d in found] == [
        "`small` is called whole: its graph gives other outputs and gradients.",
        "`small` has state that is in no buffer: a resumed run gives other outputs and gradients.",
    ]


def test_control_flow_on_the_size_of_a_batch_is_a_warning(tmp_path: Path) -> None:
    """1,437 images in batches of 64: the last has 29."""
    reason = "`small` is called whole: its control flow depends on the size of a batch."
    for limit, messages in ((40, [reason]), (20, [])):
        body = f"return self.head(f) * (2 if x.shape[0] > {limit} else 3)"
        assert [d.message for d in check_text(write(tmp_path, body), folder=tmp_path)] == messages


def test_a_network_that_differs_from_itself_is_an_error(tmp_path: Path) -> None:
    body = "import time\nreturn self.head(f) * (time.perf_counter() % 1)"
    assert [d.code for d in check_text(write(tmp_path, body), folder=tmp_path)] == ["KD0542"]


def test_state_is_among_the_weights(tmp_path: Path) -> None:
    body = "self.center = 0.9 * self.center + 0.1 * f.detach().mean(0)\nreturn self.head(f - self.center)"
    weights, _ = run(tmp_path, write(tmp_path, body))
    assert weights["center"].abs().sum() > 0


def test_a_queue_with_a_pointer_trains(tmp_path: Path) -> None:
    body = "i = int(self.center[0])\nself.center[0] = (i + 1) % 4\nreturn self.head(f + i)"
    weights, _ = run(tmp_path, write(tmp_path, body))
    assert weights["center"][0] == 46 % 4


def test_taps_inside_a_network_that_is_called_whole(tmp_path: Path) -> None:
    body = "self.t += 1\nreturn self.head(self.drop(f))"
    loss = "cross_entropy(small.logits, labels) + 0 * mean(small.body)"
    _, with_tap = run(tmp_path, write(tmp_path, body, loss))
    (tmp_path / "alone").mkdir()
    _, alone = run(tmp_path / "alone", write(tmp_path / "alone", body))
    assert with_tap == pytest.approx(alone)


def test_two_calls_of_a_network_with_dropout_differ(tmp_path: Path) -> None:
    loss = "cross_entropy(small.logits, labels) + mse(small(inputs).logits, small(inputs).logits)"
    body = "return self.head(self.drop(f))"
    _, twice = run(tmp_path, write(tmp_path, body, loss))
    (tmp_path / "once").mkdir()
    _, once = run(tmp_path / "once", write(tmp_path / "once", body, loss.replace("small(inputs)", "small")))
    assert twice > once


def test_all_values_of_one_call_with_dropout_are_of_one_draw(tmp_path: Path) -> None:
    body = "return self.head(self.drop(f))"
    text = write(tmp_path, body, "cross_entropy(a.logits, labels) + 1000 * mse(small.head(b.drop), b.logits)")
    text = text.replace("loss =", "def a = small(inputs)  def b = small(inputs)  loss =")
    _, twice = run(tmp_path, text)
    (tmp_path / "alone").mkdir()
    _, alone = run(tmp_path / "alone", write(tmp_path / "alone", body, "cross_entropy(small.logits, labels)"))
    assert twice == pytest.approx(alone)


def test_state_in_a_buffer_that_is_not_persistent_is_a_warning(tmp_path: Path) -> None:
    body = "self.passing.add_(f.detach().mean(0))\nreturn self.head(f - self.passing)"
    text = write(tmp_path, body)
    code = tmp_path / "net.py"
    line = 'self.register_buffer("passing", torch.zeros(16), persistent=False)\n        self.t, self.before'
    code.write_text(code.read_text().replace("self.t, self.before", line))
    (warning,) = check_text(text, folder=tmp_path)
    assert warning.code == "KD0547" and "`passing`" in warning.message
    code.write_text(code.read_text().replace(", persistent=False", ""))
    assert check_text(text, folder=tmp_path) == []


KEPT = {
    "[[0]]": "self.kept[0][0] += 1\nn = self.kept[0][0]",
    "np.zeros(1)": "self.kept[0] += 1\nn = float(self.kept[0])",
    "Counts()": "self.kept.n += 1\nn = self.kept.n",
    "types.SimpleNamespace(n=0)": "self.kept.n += 1\nn = self.kept.n",
}


@pytest.mark.parametrize("kept", KEPT)
def test_objects_that_a_network_keeps_are_as_before_looking(kept: str, tmp_path: Path) -> None:
    """The first step of training has the values of the constructor."""
    text = write(tmp_path, KEPT[kept] + "\nreturn self.head(f) / n", "mean(small.logits)")
    code = tmp_path / "net.py"
    head = "import types\n\nimport numpy as np\n\n\nclass Counts:\n    n = 0\n\n\n"
    kept_first = f"self.kept = {kept}\n        self.t, self.before"
    code.write_text(head + code.read_text().replace("self.t, self.before", kept_first))
    (network,) = compile_source(Source("plan.kd", text), tmp_path).plan.networks.values()
    net = fresh(network)
    trace(net, torch.zeros(4, 1, 8, 8))
    held = net.kept
    assert (held[0][0] if kept == "[[0]]" else held[0] if kept == "np.zeros(1)" else held.n) == 0
