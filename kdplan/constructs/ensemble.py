"""`ensemble`: a network that joins others.

ensemble pair of big, small@alone { mean = logits }
phase taught of small on D with R { loss = mse(small.logits, pair.logits) }
↓
network pair = ensemble(big, small@alone, mean = logits)
phase taught of small on D with R { loss = mse(small.logits, pair.logits) }
"""

from __future__ import annotations

from collections.abc import Mapping

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct
from kdplan.ir.settings import S
from kdplan.ir.spec import Kind
from kdplan.syntax import ast


def lower(node: ast.Declaration, labels: Mapping[str, object], ask: Ask) -> ast.Declaration:
    """The network that an ensemble is."""
    of = node.clause("of")
    assert of is not None
    span = of.exprs[0].span.to(of.exprs[-1].span)
    settings = {word: ask.setting(word) for word in ("mean", "join")}
    keywords = {word: tree.name(value, span) for word, value in settings.items() if value is not None}
    joined = tree.call(tree.name("ensemble", span), of.exprs, span, **keywords)
    return tree.declaration("network", str(node.name), node.head_span, [tree.clause("=", [joined], span)])


ENSEMBLE = Construct(
    Kind(
        "ensemble",
        "One network out of several: what it gives is the mean of what they give. It has their weights and none of "
        "its own.",
        "ensemble NAME[SLOTS] of NETWORKS { settings }",
        "ensemble pair of big, small@alone",
        clauses=("of",),
        required=("of",),
        settings=(
            S(
                "mean",
                "choice",
                "of what the mean is taken: with `probabilities`, softmax of the ensemble's logits is the mean of "
                "its members' softmax",
                "probabilities",
                "mean = logits",
                choices=("probabilities", "logits"),
            ),
            S(
                "join",
                "choice",
                "`concat`: no mean, but the scores of networks over different classes side by side, in the data's "
                "order; of a class that several know, the largest",
                "mean",
                "join = mean",
                choices=("mean", "concat"),
            ),
        ),
        slots=True,
    ),
    network=lower,
)
