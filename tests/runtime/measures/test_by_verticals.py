"""`measure … by V` and `over V`, trained for real on digits: against the same numbers taken by hand."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from sklearn.metrics import average_precision_score

from kdplan.cli import main
from kdplan.compile import Compiled
from kdplan.data.dataset import open_view
from kdplan.data.view import ViewSpec
from kdplan.ir.expr import Version
from kdplan.passes.expand import expand
from kdplan.runtime.measures.results import MeasureResult
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.passes.plans import codes, compiled

PARTS = {"low": [2, 0, 1], "middle": [3, 4], "high": [5, 6, 7, 8, 9]}
HEAD = """
data digits = digits
recipe quick { optimizer = adam(lr = 0.01)  epochs = 1  batch = 64 }
param seed in 0..1
verticals V of digits { low = [2, 0, 1]  middle = [3, 4]  high = 5..9 }
teacher t[v in V] = digits_net(classes = v, width = 2) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2, classes = digits.classes) {
  phase alone on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""
LINES = "measure lines of small, t[*] by V on digits.test { top1, pvap, parameters, plot(x = V, y = top1) }\n"
MEANS = "measure means of small, t[*] on digits.test over seed, V { top1, parameters }\n"


def measured(text: str, folder: Path) -> tuple[Compiled, Sources, list[MeasureResult]]:
    (folder / "plan.kd").write_text(text)
    assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "store")]) == 0
    built, kept = compiled(text), Store(folder / "store")
    sources = Sources(built.plan, kept, built.keys)
    return built, sources, run_measures(built.plan, built.keys, kept, RunOptions(device="cpu"))


def by_hand(net: torch.nn.Module, part: list[int], columns: list[int]) -> tuple[float, float]:
    """top1 and average precision in percent, of a vertical's samples, with scores cut to its classes."""
    batch = open_view(ViewSpec("digits", split="test"), None).batch(torch.arange(360))
    here = torch.isin(batch["labels"], torch.tensor(part))
    labels = batch["labels"][here]
    with torch.no_grad():
        scores = net.eval()(batch["inputs"][here])[:, columns]
    hits = torch.tensor(part)[scores.argmax(1)] == labels
    each = [average_precision_score(labels == c, scores[:, i]) for i, c in enumerate(part)]
    return 100 * hits.double().mean().item(), 100 * statistics.fmean(each)


def test_lines_are_verticals_and_their_mean(tmp_path: Path) -> None:
    built, sources, (lines, means) = measured(HEAD + LINES + MEANS, tmp_path)
    at = {(r.label, r.coordinates["V"]): r.values["last"] for r in lines.rows}
    assert [*at] == [(n, v) for n in ("small", "t") for v in PARTS] + [("small", "all"), ("t", "all")]
    wanted: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in built.plan.measures["lines"].rows:
        (version,) = row.target.versions
        assert row.classes is not None and row.classes.label is not None
        part = PARTS[row.classes.label]
        net = materialise(sources, Version(version.network, version.phase), torch.device("cpu"))
        columns = part if row.label == "small" else [*range(len(part))]
        wanted.setdefault((row.label, row.classes.label), []).append(by_hand(net, part, columns))
    for key, runs in wanted.items():
        assert at[key]["top1"].values == pytest.approx([top1 for top1, _ in runs])
        assert at[key]["pvap"].values == pytest.approx([pvap for _, pvap in runs])
    for name in ("small", "t"):
        runs = [[wanted[name, v][seed][0] for v in PARTS] for seed in range(2)]
        assert at[name, "all"]["top1"].values == pytest.approx([statistics.fmean(r) for r in runs])
    (whole,) = (r.values["last"] for r in means.rows if r.label == "t")
    assert whole["top1"] == at["t", "all"]["top1"]
    each = [at["t", v]["parameters"].mean for v in PARTS]
    assert (
        whole["parameters"].mean == sum(each) and at["small", "all"]["parameters"] == at["small", "low"]["parameters"]
    )
    (curve,) = lines.plots
    assert {n: [x for x, _ in points] for n, points in curve.lines.items()} == {n: [*PARTS] for n in ("small", "t")}


def test_it_can_be_expanded(tmp_path: Path) -> None:
    _, _, (lines,) = measured(HEAD.replace("in 0..1", "= 0") + LINES, tmp_path)
    text = expand(compiled(HEAD.replace("in 0..1", "= 0") + LINES).plan)
    _, _, (again,) = measured(text, tmp_path)
    assert [list(r.coordinates.values()) for r in again.rows[:3]] == [["low"], ["middle"], ["high"]]
    values = [[n.mean for n in r.values["last"].values()] for r in lines.rows if r.label == "small"]
    assert [[n.mean for n in r.values["last"].values()] for r in again.rows if r.label.startswith("small")] == values


def test_mistakes() -> None:
    def wrong(measure: str) -> list[str]:
        return codes(f"{HEAD}{measure}\n")

    assert wrong("measure m of small by V on digits.test { topk(3) }") == ["KD0243"], "middle has two classes"
    assert wrong("measure m of small by W on digits.test { top1 }") == ["KD0409"]
    assert wrong("measure m of small on digits.test { pvap(groups = V) }") == ["KD0237"]


def test_verticals_that_read_an_axis_divide_each_of_its_values() -> None:
    swept = "param n in 2..3\nverticals W of digits = random(parts = n)\n"
    plan = compiled(f"{HEAD}{swept}measure m of small by W on digits.test {{ top1 }}\n").plan
    rows = [(r.coordinates["n"], r.coordinates["W"], r.coordinates["seed"]) for r in plan.measures["m"].rows]
    assert len(rows) == len(set(rows)) == (2 + 3) * 2
