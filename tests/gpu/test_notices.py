"""Settings for GPUs on a machine without one: the plan runs, and what has no effect is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.cli import main

PLAN = """
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50  precision = tf32  compile = graphs }
recipe half { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50  frozen_precision = bf16 }
student small = digits_net(width = 2)
teacher big = digits_net(width = 3)
phase one of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase two of small on digits with half { loss = kd(small.logits, big@init.logits, temperature = 4) }
"""


def test_what_a_cpu_cannot_do_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.kd"
    file.write_text(PLAN, encoding="utf-8")
    assert main(["run", str(file), "--store", str(tmp_path / "s"), "--device", "cpu"]) == 0
    said = " ".join("".join(capfd.readouterr()).split())
    assert said.count("KD1020") == 2
    assert "where `compile = graphs` has no effect: it runs step by step" in said
    assert "where `precision = tf32` has no effect: it computes in fp32" in said
