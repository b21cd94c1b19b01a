"""Hierarchies of classes."""

from __future__ import annotations

import itertools
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdplan.data.hierarchy import Hierarchy, HierarchyError, read_hierarchy

EDGES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=20)


@given(EDGES)
def test_ancestors_and_levels_are_those_of_a_graph(edges: list[tuple[int, int]]) -> None:
    """Against networkx: ancestors, shortest ways from the roots, and cycles."""
    graph = nx.DiGraph((str(b), str(a)) for a, b in edges)  # parent -> child
    parents: dict[str, list[str]] = {}
    for a, b in edges:
        parents.setdefault(str(a), []).append(str(b))
    if not nx.is_directed_acyclic_graph(graph):
        with pytest.raises(HierarchyError) as problem:
            Hierarchy(parents)
        cycle = problem.value.cycle
        assert cycle[0] == cycle[-1] and all(b in parents[a] for a, b in itertools.pairwise(cycle))
        return
    h = Hierarchy(parents)
    roots = [n for n in graph if not graph.in_degree(n)]
    for n in graph:
        assert set(h.ancestors(n)) == nx.ancestors(graph, n)
        ways = [nx.shortest_path_length(graph, r, n) for r in roots if nx.has_path(graph, r, n)]
        assert h.level(n) == min(ways)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("dog,animal\npoodle,dog\npoodle,pet\nanimal,\n")
    (tmp_path / "a.json").write_text('{"dog": "animal", "poodle": ["dog", "pet"], "animal": null}')
    one, two = read_hierarchy(tmp_path / "a.csv"), read_hierarchy(tmp_path / "a.json")
    assert one == two and one.ancestors("poodle") == ["dog", "pet", "animal"]
    assert "pet" in one and "cat" not in one
    for text in ("dog", "dog,animal,more", ",animal"):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(HierarchyError):
            read_hierarchy(tmp_path / "b.csv")
