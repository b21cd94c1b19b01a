"""`branches`: a network whose part from one place on is there several times, with one phase that trains it.

branches one of resnet20 from layer3 on D with R {
  count = 3
  loss  = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
}
↓
student one = branched(resnet20, from = layer3, count = 3, shape = [3, 32, 32]) {
  phase train on D with R {
    def branch = self.branch[*]
    def gated = self.gated
    loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
  }
}
"""

from __future__ import annotations

from kdplan.constructs import Ask, tree
from kdplan.diagnostics.report import counted, error
from kdplan.syntax import ast

PHASE = "train"
"""The phase that the network has."""
_OF_NETWORK = ("count", "gate")


def lower(node: ast.Declaration, ask: Ask) -> ast.Declaration:
    """The network with its phase.

    Raises
    ------
    PlanError
        KD0276 where not one network is branched at one place.
    """
    said = {c.word: c for c in node.clauses}
    for word in ("of", "from"):
        exprs = said[word].exprs
        if len(exprs) != 1:
            what = counted(len(exprs), "network" if word == "of" else "tap")
            raise error("KD0276", said[word].word_span.to(exprs[-1].span), name=node.name, what=what)
    base, point = said["of"].exprs[0], said["from"].exprs[0]
    span = base.span.to(point.span)
    settings = {i.name: i for i in node.items or [] if isinstance(i, ast.Setting)}
    keywords = {"from": point}
    keywords |= {word: settings[word].value for word in _OF_NETWORK if word in settings}
    shape = [ast.Number(span, n) for n in ask.images(said["on"].exprs[0])]
    made = tree.call(tree.name("branched", span), [base], span, **keywords, shape=ast.List(span, [*shape]))
    me = tree.name("self", node.head_span)
    every = ast.Pick(node.head_span, tree.tap(me, "branch", node.head_span), [ast.All(node.head_span)])
    items: list[ast.Item] = [
        _definition("branch", every),
        _definition("gated", tree.tap(me, "gated", node.head_span)),
    ]
    items += [i for i in node.items or [] if getattr(i, "name", "") not in (*_OF_NETWORK, "seed")]
    clauses = [said[word] for word in ("on", "with")]
    phase = tree.phase(PHASE, node.head_span, clauses, items)
    own: list[ast.Item] = [settings["seed"]] if "seed" in settings else []
    return tree.declaration("student", str(node.name), node.head_span, [tree.clause("=", [made], span)], [*own, phase])


def _definition(word: str, value: ast.Expr) -> ast.Declaration:
    return tree.declaration("def", word, value.span, [tree.clause("=", [value], value.span)])
