"""Stages found from shapes: where they end, how they are paired, joined and divided."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kdplan.constructs.ladder import Step, ladder, natural, steps
from kdplan.graph.cuts import cuts
from kdplan.graph.trace import trace
from kdplan.ir.cuts import Cut
from kdplan.nn.models import create


def stages_of(size: int, architecture: str, channels: int = 3, /, **settings: object) -> list[tuple[Cut, ...]]:
    with torch.device("meta"):
        net = create(architecture, **settings)
    return natural(cuts(trace(net.eval(), torch.zeros(2, channels, size, size))))


def ends(stages: list[tuple[Cut, ...]]) -> list[str]:
    return [stage[-1].path for stage in stages]


@pytest.mark.parametrize(
    ("size", "architecture", "settings", "wanted"),
    [
        (32, "cifar_resnet", {"depth": 20}, ["stem", "layer1", "layer2", "layer3"]),
        (32, "cifar_resnet", {"depth": 56}, ["stem", "layer1", "layer2", "layer3"]),
        (32, "cifar_wide_resnet", {"depth": 16, "width": 2}, ["stem", "layer1", "layer2", "relu"]),
        (224, "torchvision", {"name": "resnet18"}, ["layer1", "layer2", "layer3", "layer4"]),
        (
            224,
            "torchvision",
            {"name": "vgg16_bn"},
            ["features.5", "features.12", "features.22", "features.32", "features.42"],
        ),
        (
            224,
            "torchvision",
            {"name": "mobilenet_v2"},
            ["features.1", "features.3", "features.6", "features.13", "features.18"],
        ),
        (224, "torchvision", {"name": "vit_b_16"}, ["conv_proj"]),
    ],
)
def test_stages_end_where_maps_shrink(
    size: int, architecture: str, settings: dict[str, object], wanted: list[str]
) -> None:
    assert ends(stages_of(size, architecture, **settings)) == wanted


def test_blocks_are_where_a_stage_may_be_divided() -> None:
    stages = stages_of(32, "cifar_resnet", depth=20)
    assert [[c.path for c in stage] for stage in stages][1] == ["layer1.0", "layer1.1", "layer1"]


def test_eight_rows() -> None:
    """Stage by stage, Table 3: fewer stages keep the last ends, more divide the first stages first."""
    pairs = steps(stages_of(32, "cifar_resnet", depth=20), stages_of(32, "cifar_resnet", depth=56))
    rows = {n: ladder(pairs, n) for n in range(1, 9)}
    assert rows[1] == [("layer3", "layer3")]
    assert rows[2] == [("layer2", "layer2"), ("layer3", "layer3")]
    assert rows[4] == ladder(pairs, None)
    five = rows[5]
    assert five is not None and five[:3] == [("stem", "stem"), ("layer1.1", "layer1.4"), ("layer1", "layer1")]
    for n, row in rows.items():
        assert row is not None and len(row) == len(set(row)) == n


def test_families_are_matched_by_size_and_the_last_by_being_last() -> None:
    def run(path: str, size: int) -> tuple[Cut, ...]:
        return (Cut(path, 8, (size, size), 1),)

    student = [run("stem", 32), run("layer1", 32), run("layer2", 16), run("layer3", 8)]
    teacher = [run("a", 32), run("b", 16), run("c", 8), run("d", 4), run("e", 2)]
    assert ladder(steps(student, teacher), None) == [("layer1", "a"), ("layer2", "b"), ("layer3", "e")]


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=5),
    st.integers(1, 20),
)
def test_any_count_is_met_or_refused(sizes: list[tuple[int, int]], count: int) -> None:
    """Ends are in order on both sides, the last is the end of all, and only impossible counts are refused."""
    pairs = [
        Step(
            tuple(Cut(f"s{i}.{j}", 8, (8, 8), 1) for j in range(a)),
            tuple(Cut(f"t{i}.{j}", 8, (8, 8), 1) for j in range(b)),
        )
        for i, (a, b) in enumerate(sizes)
    ]
    ends = ladder(pairs, count)
    if ends is None:
        assert count > sum(step.most for step in pairs)
        return
    assert len(ends) == count
    for side, cuts_of_side in enumerate(
        ([c.path for s in pairs for c in s.student], [c.path for s in pairs for c in s.teacher])
    ):
        positions = [cuts_of_side.index(end[side]) for end in ends]
        assert positions == sorted(set(positions)) and positions[-1] == len(cuts_of_side) - 1
