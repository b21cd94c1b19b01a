"""`branches`: a network whose part from one tap on exists several times, with one phase that trains it.

branches one of net from layer2 on D with R {
  count = 3
  loss  = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
}
↓
student one = branched(net, from = layer2, count = 3, shape = [1, 8, 8]) {
  phase train on D with R {
    def branch = self.branch[*]
    def gated  = self.gated
    loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
  }
}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct, LocalName
from kdplan.diagnostics.report import counted, error
from kdplan.ir.settings import LOSS, RECIPE, SEED, S
from kdplan.ir.spec import Kind
from kdplan.syntax import ast

PHASE = "train"
"""The phase that the network has."""
_OF_NETWORK = ("count", "gate")


def lower(node: ast.Declaration, labels: Mapping[str, object], ask: Ask) -> ast.Declaration:
    """The network with its phase.

    Raises
    ------
    PlanError
        KD0276 where not one network is branched at one tap.
    """
    written = {c.word: c for c in node.clauses}
    for word in ("of", "from"):
        exprs = written[word].exprs
        if len(exprs) != 1:
            what = counted(len(exprs), "network" if word == "of" else "tap")
            raise error("KD0276", written[word].word_span.to(exprs[-1].span), name=node.name, what=what)
    base, point = written["of"].exprs[0], written["from"].exprs[0]
    span = base.span.to(point.span)
    settings = {i.name: i for i in node.items or [] if isinstance(i, ast.Setting)}
    keywords = {"from": point}
    keywords |= {word: settings[word].value for word in _OF_NETWORK if word in settings}
    shape = [ast.Number(span, n) for n in ask.images(written["on"].exprs[0])]
    model = tree.call(tree.name("branched", span), [base], span, **keywords, shape=ast.List(span, [*shape]))
    me = tree.name("self", node.head_span)
    every = ast.Pick(node.head_span, tree.tap(me, "branch", node.head_span), [ast.All(node.head_span)])
    items: list[ast.Item] = [
        _definition("branch", every),
        _definition("gated", tree.tap(me, "gated", node.head_span)),
    ]
    items += [i for i in node.items or [] if getattr(i, "name", "") not in (*_OF_NETWORK, "seed")]
    clauses = [written[word] for word in ("on", "with")]
    phase = tree.phase(PHASE, node.head_span, clauses, items)
    own: list[ast.Item] = [settings["seed"]] if "seed" in settings else []
    return tree.declaration("student", str(node.name), node.head_span, [tree.clause("=", [model], span)], [*own, phase])


def _definition(word: str, value: ast.Expr) -> ast.Declaration:
    return tree.declaration("def", word, value.span, [tree.clause("=", [value], value.span)])


BRANCHES = Construct(
    Kind(
        "branches",
        "A network whose part from one tap on is there several times, with one phase, `train`, in which its branches "
        "teach one another. `NAME.branch[0]` is one of them (the plain network, with its weights), "
        "`NAME.gated` their mean as the gate weighs them; within the body they are `branch` and `gated`.",
        "branches NAME[SLOTS] of NETWORK from PLACE on DATA with RECIPE { count = … loss = … }",
        "branches one of digits_net(width = 4) from layer2 on digits with quick { count = 2  "
        "loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels) }",
        clauses=("of", "from", "on", "with"),
        required=("of", "from", "on", "with"),
        settings=(
            S(
                "count",
                "integer",
                "how many branches there are, the network's own among them",
                "3",
                "count = 2",
                above=0,
                high=100,
            ),
            S(
                "gate",
                "gate",
                "what each branch counts in `gated`, of the features that the branches share: a row of the table of "
                "gates, or a module of a Python file that gives [B, count]",
                "gate",
                "gate = gate()",
            ),
            replace(
                LOSS,
                example="loss = sum(cross_entropy(b.logits, labels) for b in branch) + "
                "cross_entropy(gated.logits, labels)",
            ),
            SEED,
            *RECIPE,
        ),
        inner=("def", "measure"),
        slots=True,
    ),
    network=lower,
    names=(LocalName("branch", "branches"), LocalName("gated", "branches")),
)
