"""`kdplan export-workflow snakemake`: rules that train a plan without kdplan's own order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Kdplan


def rules(text: str) -> dict[str, list[str]]:
    """Key -> the keys that its rule needs."""
    found = re.findall(r"rule phase_\w+:\n    input: (.*)\n    output: touch\(\"done/(\w+)\"\)", text)
    return {key: re.findall(r"done/(\w+)", needs) for needs, key in found}


def test_the_rules_of_a_plan_train_it(kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("export-workflow", "snakemake", "a.kd", "-o", "flow")
    assert ran.code == 0, ran.err
    text = (folder / "flow" / "Snakefile").read_text()
    phases = {p["name"]: p["key"] for p in kdplan("plan", "a.kd", "--json", "--no-cost").json["phases"]}
    assert rules(text) == {phases["big@train"]: [], phases["kd"]: [phases["big@train"]]}
    assert "threads: 1" in text and "mem_mb = 4" in text and "retries: 3" in text
    compile(text.split("rule measures")[0], "Snakefile", "exec")
    for key in rules(text):
        assert kdplan("work", "flow/snapshot.json", "--store", ".kdplan", "--phase", key).code == 0
    assert "2 cached" in kdplan("run", "a.kd").out
    assert kdplan("export-workflow", "snakemake", "a.kd", "-o", "flow").code == 0
    assert rules((folder / "flow" / "Snakefile").read_text()) == {}


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="needs the program snakemake")
def test_snakemake_runs_them(kdplan: Kdplan, folder: Path) -> None:
    assert kdplan("export-workflow", "snakemake", "a.kd", "-o", "flow").code == 0
    command = ["snakemake", "--snakefile", "flow/Snakefile", "--cores", "2", "--quiet"]
    path = f"{Path(sys.executable).parent}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stderr
    assert "table on digits.test" in (folder / "a.txt").read_text()
