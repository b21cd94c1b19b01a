"""Which samples each process computes, and what needs no processes to be seen."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st
from torch import nn

from kdplan.cli import main
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from kdplan.ir.expr import Const
from kdplan.ir.plan import Item, Phase, Plan, Recipe
from kdplan.runtime.division import Division
from kdplan.runtime.parallel import Parallel
from kdplan.runtime.ranks import Ranks, Way
from tests.runtime.small import phase_graph, recipe


@drawn(
    st.lists(st.integers(1, 40), min_size=1, max_size=2),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_processes_together_compute_each_sample_once(
    sizes: list[int], batch: int, accumulate: int, shards: int, ranks: int
) -> None:
    given = Recipe(Item("sgd"), batch=batch, accumulate=accumulate, shards=shards)
    divisions = [Division.of(given, sizes, rank, ranks) for rank in range(ranks)]
    for step in range(4):
        slots = [d.slots(step) for d in divisions]
        whole = divisions[0].samples(step)
        assert len({len(s) for s in slots}) == 1  # they sum equally often
        for stream, n in enumerate(whole):
            counted = [row for own in slots for s in own if s.share for row in s.rows[stream]]
            assert sorted(counted) == list(range(n))
        assert sum(s.share for own in slots for s in own) == pytest.approx(1.0)
        parts = [s.part for own in slots for s in own]
        for part in set(parts):
            assert sum(s.share_of_part for own in slots for s in own if s.part == part) == pytest.approx(1.0)
        numbers = [s.number for own in slots for s in own if s.share]
        assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_process_reads_its_samples_only(workers: int) -> None:
    data = open_view(ViewSpec("digits"), None)
    given = Recipe(Item("sgd"), batch=100, accumulate=3)
    division = Division.of(given, [len(data)], 1, 2)
    whole = Loader(data, 300, seed=5, train=True)
    part = Loader(data, 300, seed=5, train=True, workers=workers, part=partial(division.rows, 0))
    for epoch in range(2):
        for step, (all_of_it, mine) in enumerate(zip(whole.epoch(epoch), part.epoch(epoch), strict=True)):
            rows = division.rows(0, epoch * whole.steps_per_epoch + step)
            assert 0 < len(rows) < len(all_of_it["indices"])
            for name, tensor in mine.items():
                assert torch.equal(tensor, all_of_it[name][rows]), name


def test_one_process_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.kd").write_text("student s = digits_net(width = 2)\n")
    for option in ("--fast", "--fully-shard"):
        main(["run", str(tmp_path / "a.kd"), "--store", str(tmp_path / "store"), option])
        assert f"`{option}` has no effect" in capsys.readouterr().err


def test_other_devices_are_an_error() -> None:
    graph = phase_graph(nn.Linear(64, 10))
    division = Division.of(recipe(), [100], 0, 2)
    with pytest.raises(PlanError) as problem:
        Parallel(graph, graph.trainable_graph, division, Ranks(0, 2), "p", torch.device("mps"))
    assert [d.code for d in problem.value.diagnostics] == ["KD0985"]


@pytest.mark.parametrize("way", ["fast", "fully-shard"])
def test_norms_over_all_shards_are_an_error(way: Way) -> None:
    """Each process would normalise by its own samples, and not say so."""
    given = replace(recipe(), shards=2, norm="sync")
    phase = Phase("p", [], [], [given], Const(0.0))
    with pytest.raises(PlanError) as problem:
        Ranks(0, 2, way=way).check(Plan(phases={"p": phase}), phase)
    assert [d.code for d in problem.value.diagnostics] == ["KD0988"]
    Ranks(0, 2).check(Plan(phases={"p": phase}), phase)


def test_a_recorded_step_is_an_error() -> None:
    """Gradients are added up outside of what a graph repeats."""
    phase = Phase("p", [], [], [replace(recipe(), compile="graphs")], Const(0.0))
    with pytest.raises(PlanError) as problem:
        Ranks(0, 2, way="fast").check(Plan(phases={"p": phase}), phase)
    assert [d.code for d in problem.value.diagnostics] == ["KD1021"]
