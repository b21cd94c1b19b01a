"""Pictures of phases."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import torch
from torch import nn

from kdplan.graph.build import Builder
from kdplan.graph.draw import drawing, to_dot, to_mermaid
from tests.graph.test_passes import phase, trainable_in


def test_a_person_can_read_it() -> None:
    _, gm, _, _ = phase()
    p = drawing(gm, trainable_in(gm), depth=1)
    assert p.clusters() == ["small", "big"]
    boxes = {(b.cluster, b.label): b.kind for b in p.boxes.values()}
    assert boxes[("small", "layer2")] == "trainable" and boxes[("big", "layer2")] == "frozen"
    assert boxes[("", "fit")] == "adapter" and boxes[("", "loss")] == "output"
    assert len(p.boxes) < 40
    labels = {t for ts in p.edges.values() for t in ts}
    assert "B×32×16×16" in labels
    dot, mermaid = to_dot(p, "kd"), to_mermaid(p)
    assert dot.count("subgraph") == mermaid.count("subgraph") == 2
    assert len(p.boxes) < len(drawing(gm, trainable_in(gm), depth=2).boxes)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz's dot program")
def test_graphviz_accepts_it() -> None:
    _, gm, _, _ = phase()
    source = to_dot(drawing(gm, trainable_in(gm)), 'a "title"')
    done = subprocess.run(["dot", "-Tsvg"], input=source, capture_output=True, text=True, check=True)
    assert "<svg" in done.stdout


def test_edges_have_the_shapes_of_batches_and_of_what_does_not_follow_them() -> None:
    b = Builder()
    x = b.input("inputs_0", torch.zeros(5, 3))  # as many samples as the running mean has numbers
    b.network("small", nn.Linear(3, 5))
    scores = b.apply("small", (x,))
    mean = b.call(torch.mean, scores, 0)
    both = b.call(torch.cat, [scores, scores])
    loss = b.call(torch.sum, b.call(torch.mul, both, mean))
    drawn = drawing(b.finish({"loss": loss}).graph_module)
    by_source = {drawn.boxes[source].label: labels for (source, _), labels in drawn.edges.items()}
    assert by_source["inputs_0"] == ["B×3"]
    assert by_source["mean 0"] == ["5"]
    assert by_source["cat"] == ["2B×5"]
