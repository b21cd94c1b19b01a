"""The column of differences to a baseline: run by run, each with its own partner."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import fmean, stdev

import pytest
from scipy import stats

from kdplan.cli import main
from kdplan.runtime.measures.results import MeasureResult, Number, ResultRow

PLAN = """\
param seed in 0..2
param w in [0.1, 0.9]
data digits = digits { limit = 200 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
student small = digits_net(width = 2)
teacher big = digits_net(width = 3) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
phase kd of small on digits with quick { loss = w * kd(small.logits, big.logits, temperature = 4) }
measure each of big, small@kd by seed on digits.test { top1 }
measure table of big, small@kd on digits.test { top1, parameters, baseline = big }
measure swept of small@kd by w on digits.test { top1, plot(x = w, y = top1, band = ci), baseline = small@kd[w = 0.1] }
"""


def read(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_differences_are_paired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The mean and Student's interval of the differences between runs of one seed; none of a version to itself."""
    (tmp_path / "a.kd").write_text(PLAN)
    assert main(["run", str(tmp_path / "a.kd"), "--store", str(tmp_path / "s"), "--csv", str(tmp_path / "csv")]) == 0
    each = {(r["network"], r["w"], r["seed"]): float(r["top1_last"]) for r in read(tmp_path / "csv" / "each.csv")}
    big, low, high = read(tmp_path / "csv" / "table.csv")
    assert big["top1_last_delta"] == "" and low["parameters_last_delta"] != ""
    for row in (low, high):
        found = [each["small@kd", row["w"], str(s)] - each["big", "", str(s)] for s in range(3)]
        assert float(row["top1_last_delta"]) == pytest.approx(fmean(found))
        half = stats.t.ppf(0.975, 2) * stdev(found) / 3**0.5
        assert float(row["top1_last_delta_high"]) == pytest.approx(fmean(found) + half)
    first, second = read(tmp_path / "csv" / "swept.csv")
    assert first["top1_last_delta"] == "" and second["top1_last_delta"] != ""
    assert "Δ: difference to big" in capsys.readouterr().out


def test_differences_survive_json() -> None:
    """As the store writes and reads them."""
    from kdplan.runtime.claims.paired import paired

    row = ResultRow("a", {}, {"last": {"top1": Number(1.0, None, 2, [1.0, 1.0], delta=paired([1.0, 2.0]))}})
    table = MeasureResult("t", ["top1"], ["d"], [row], baseline="b")
    assert MeasureResult.from_json(table.to_json()) == table
