"""Tables of measures in every form."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from io import StringIO

from rich.console import Console

from kdplan.runtime.measures.results import MeasureResult, Number, ResultRow
from kdplan.view.tables import printed, rich_table, to_csv, to_json, to_markdown

RESULT = MeasureResult(
    "table",
    ["top1", "loss"],
    ["digits.test"],
    [
        ResultRow(
            "small@kd",
            {"weight": 5},
            {
                "last": {"top1": Number.of([0.9, 0.92, 0.94]), "loss": Number.of([1e-5])},
                "best": {"top1": Number.of([0.95, 0.95, 0.95])},
            },
            "digits.test",
        ),
        ResultRow("big|x", {}, {"last": {"top1": Number.of([math.nan, 1.0])}}, "digits.test"),
    ],
    ["seed"],
)


def test_terminal() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(RESULT))
    text = console.export_text()
    for word in ("table on digits.test", "over seed", "0.92 ± 0.02 (n = 3)", "top1 (best)", "1.000e-05", "nan"):
        assert word in text, word


def test_terminal_crossed() -> None:
    """Coordinates that are no axis of the rows stand in the columns' names; deviations over several axes are one."""
    numbers = {"last": {"top1": Number.of([1.0, 2.0])}}
    rows = [ResultRow("small@kd", {"w": w, "v": v}, numbers, "digits.test") for w in (1, 5) for v in (3, 4)]
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(rich_table(MeasureResult("fig", ["top1"], ["digits.test"], rows, ["seed", "u"], by=["w"])))
    text = console.export_text()
    for word in ("over seed and u", "small@kd[v = 3] top1", "small@kd[v = 4] top1"):
        assert word in text, word


def test_csv_has_all_digits() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RESULT))))
    assert float(rows[0]["top1_last"]) == RESULT.rows[0].values["last"]["top1"].mean
    assert rows[0]["top1_last_n"] == "3" and rows[0]["weight"] == "5" and rows[0]["loss_last_std"] == ""
    assert rows[1]["loss_last"] == "" and rows[1]["top1_last"] == "nan"


def test_markdown_keeps_its_columns() -> None:
    lines = to_markdown(RESULT).splitlines()
    assert "big\\|x" in lines[3]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_json_round_trip() -> None:
    again = MeasureResult.from_json(json.loads(to_json(RESULT)))
    assert again.rows[0] == RESULT.rows[0]
    assert math.isnan(again.rows[1].values["last"]["top1"].mean)


def test_views_and_store_do_without_torch() -> None:
    code = (
        "import sys\n"
        "import kdplan.runtime.store, kdplan.view.dag, kdplan.view.plan, kdplan.view.why, kdplan.view.progress\n"
        "import kdplan.view.tables, kdplan.view.status\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_table_that_is_too_wide_is_cut_between_columns() -> None:
    numbers = {f"score(k = {k})": Number.of([k, k + 1.0]) for k in range(1, 6)}
    rows = [ResultRow("small@kd", {"generation": m}, {"last": numbers}, "digits.test") for m in range(3)]
    out = Console(width=80, record=True, file=StringIO())
    out.print(printed(MeasureResult("t", list(numbers), ["digits.test"], rows, ["seed"]), 80))
    text = out.export_text()
    assert text.count("generation") == 3 and text.count("t on digits.test") == 1 and "…" not in text
    assert all(text.count(name) == 1 for name in numbers) and max(map(len, text.splitlines())) <= 80
    assert text.count("1.50 ± 0.71 (n = 2)") == 3
