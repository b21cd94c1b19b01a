"""Pictures of phases."""

from __future__ import annotations

import shutil
import subprocess

import pytest

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
