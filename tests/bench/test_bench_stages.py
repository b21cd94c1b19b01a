"""The bench of a ladder runs, and its two forms do the same, on networks small enough for that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.bench.bench_stages import STAGES, by_operators, check, compiled, flops, pair, peak

SMALL = {"teacher_depth": "14", "student_depth": "8", "batch": "8"}


def test_every_phase_does_what_the_loop_by_hand_does(tmp_path: Path) -> None:
    made = compiled(tmp_path, **SMALL)
    saved = []
    for stage in STAGES:
        one = pair(made, stage, tmp_path)
        check(stage, one, steps=2)
        saved.append(one.flops / flops(one.naive))
        assert peak(one.graph, one.known()) <= peak(one.naive, one.known())
        assert flops(one.graph) == one.flops
    assert saved[0] < 0.05 and saved == sorted(saved)
    assert saved[-1] == pytest.approx(1.0)


def test_layout_of_the_recipe_is_that_of_both_forms(tmp_path: Path) -> None:
    one = pair(compiled(tmp_path, channels_last="true", **SMALL), "s2", tmp_path)
    check("s2", one, steps=1)
    for student in one.students:
        assert student.get_parameter("layer2.0.conv1.weight").is_contiguous(memory_format=torch.channels_last)
    ratio, kinds = by_operators(one, rounds=1)
    assert 0 < ratio < 1 and "convolutions forward" in kinds
