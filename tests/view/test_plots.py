"""Plots of measures: their numbers, their files, and that equal numbers are drawn once."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.measures.results import Curves, Drawn, MeasureResult, Number, Panel, ResultRow
from kdplan.view.plots import write_plots
from kdplan.view.tables import texts
from tests.passes.plans import BIG, CE, HEAD, compiled

SWEEP = "phase kd[w in [1, 10, 100]] of small on digits with quick { loss = w * kd(small.logits, big.logits) }\n"
ALONE = f"phase alone of small on digits with quick {{ {CE} }}\n"
MEASURE = "measure fig of small@kd[*] by w on digits.test { top1, plot(x = w, y = top1, baseline = small@alone) }\n"
TEXT = HEAD + BIG + SWEEP + ALONE + MEASURE


def result() -> MeasureResult:
    lines = {"small@kd": [(1, Number.of([1.0, 3.0])), (100, Number.of([2.0, 4.0]))]}
    panel = Panel(
        "small@kd.layer2", "tsne", "scatter", {"points": [[0, 0], [1, 1]], "labels": [3, 4], "classes": [3, 4]}
    )
    table = MeasureResult("fig", ["top1"], ["digits.test"])
    table.plots = [Curves("w", "top1", lines, {"small@alone": Number.of([2.5])}, "digits.test")]
    table.panels = [panel]
    return table


def test_each_plot_has_an_svg_and_a_png_file(tmp_path: Path) -> None:
    files = write_plots(result(), tmp_path, lambda metric: "%")
    assert [f.name for f in files] == ["fig.svg", "fig-2.svg"]
    assert all(f.with_suffix(".png").read_bytes().startswith(b"\x89PNG") for f in files)
    assert all("<svg" in f.read_text() for f in files)


def test_equal_numbers_are_drawn_once_and_alike(tmp_path: Path) -> None:
    (file, *_) = write_plots(result(), tmp_path)
    first = file.read_bytes(), file.stat().st_mtime_ns
    write_plots(result(), tmp_path)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == first
    assert write_plots(result(), tmp_path / "again")[0].read_bytes() == first[0]
    other = result()
    other.plots[0].levels = {}
    write_plots(other, tmp_path)
    assert file.read_bytes() != first[0]


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    assert write_plots(MeasureResult("t", [], []), tmp_path / "none") == []
    assert not (tmp_path / "none").exists()


def test_results_with_plots_survive_json() -> None:
    assert MeasureResult.from_json(result().to_json()) == result()
    assert math.isnan(Number.of([Drawn(math.nan, "scatter", {}), 1.0]).mean)


def test_by_makes_a_cross_table() -> None:
    rows = [
        ResultRow(label, {"k": k}, {"last": {"top1": Number.of([10.0 * k + i])}}, "d.test")
        for k in (1, 2)
        for i, label in enumerate(("a", "b"))
    ]
    described, head, lines = texts(MeasureResult("t", ["top1"], ["d.test"], rows, by=["k"]))
    assert (described, head) == (1, ["k", "a top1", "b top1"])
    assert lines == [["1", "10.00", "11.00"], ["2", "20.00", "21.00"]]


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (("x = w", "x = v"), "KD0409", "v"),
        (("y = top1", "y = top5"), "KD0245", "top5"),
        (("x = w, ", ""), "KD0237", "plot"),
        (("x = w", "z = w"), "KD0230", "z"),
        (("x = w", "w"), "KD0236", "w"),
        (("by w", "by parts"), "KD0409", "parts"),
    ],
)
def test_mistakes(change: tuple[str, str], code: str, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        compiled(TEXT.replace(*change) + "verticals part of digits = random(parts = 2)")
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == code and diagnostic.span is not None and diagnostic.span.text.startswith(text)


def test_a_run_draws_the_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "sweep.kd"
    plan.write_text(TEXT + "measure seen of small@alone.layer2 on digits.test { tsne(classes = 3, samples = 60) }")
    assert main(["run", str(plan), "--store", str(tmp_path / "store")]) == 0
    output = capsys.readouterr().out
    plots = [Path(p) for p in re.findall(r"plot: (.+)", output)]
    assert [p.name for p in plots] == ["fig.svg", "seen.svg"] and all(p.is_file() for p in plots)
    assert plots[0].parent == tmp_path / "store" / "plots" / "sweep"
    assert "small@kd top1" in output
    assert main(["run", str(plan), "--store", str(tmp_path / "store"), "--plots", str(tmp_path / "here")]) == 0
    assert (tmp_path / "here" / "fig.png").is_file()
