"""The source tree as data: its files, and who imports whom."""

from __future__ import annotations

import ast
from pathlib import Path

import networkx as nx

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "kdplan").rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports() -> nx.DiGraph[str]:
    """Module → the modules that it imports anywhere, also inside of functions and for types only."""
    names = {module_name(f) for f in SOURCES}
    graph: nx.DiGraph[str] = nx.DiGraph()
    for file in SOURCES:
        own = module_name(file)
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                wanted = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{a.name}" for a in node.names]
                wanted = [name if name in names else node.module for name in inner]
            else:
                continue
            graph.add_edges_from((own, other) for other in wanted if other in names and other != own)
    return graph


def circles() -> list[list[str]]:
    """Modules that import one another, directly or by others."""
    return sorted(sorted(c) for c in nx.strongly_connected_components(imports()) if len(c) > 1)
