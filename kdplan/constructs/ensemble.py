"""`ensemble`: a network that joins others.

ensemble pair of a@p, b@q { mean = logits }
↓
network pair = ensemble(a@p, b@q, mean = logits)
"""

from __future__ import annotations

from kdplan.constructs import Ask, tree
from kdplan.syntax import ast


def lower(node: ast.Declaration, ask: Ask) -> ast.Declaration:
    """The network that an ensemble is."""
    of = node.clause("of")
    assert of is not None
    span = of.exprs[0].span.to(of.exprs[-1].span)
    said = {word: ask.setting(word) for word in ("mean", "join")}
    keywords = {word: tree.name(value, span) for word, value in said.items() if value is not None}
    joined = tree.call(tree.name("ensemble", span), of.exprs, span, **keywords)
    return tree.declaration("network", str(node.name), node.head_span, [tree.clause("=", [joined], span)])
