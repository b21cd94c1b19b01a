"""Sparse signals: scores ``[B, K]`` and, as `Signal.ids`, the classes ``[B, K]`` that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx

from kdplan.diagnostics.report import error
from kdplan.graph.functions import sparse_form
from kdplan.graph.loss_context import LossContext
from kdplan.graph.messages import other_classes
from kdplan.graph.signals import Signal, shown
from kdplan.ir import expr as ir
from kdplan.ir.functions import FUNCTIONS


def only_dense(parts: Sequence[Signal], nodes: Sequence[ir.Expr], what: str, e: ir.Expr) -> None:
    """KD0530 where a sparse signal stands among arguments that must be dense."""
    for part, node in zip(parts, nodes, strict=False):
        if part.ids is not None:
            raise error("KD0530", node.span or e.span, what=what)


def top(context: LossContext, e: ir.Call, scores: Signal, k: int) -> Signal:
    """The k largest scores of each sample, sparse."""
    if len(scores.shape) != 2:
        problem, shapes = "it takes one row of scores for each sample", shown(scores.shape)
        raise error("KD0506", e.span, name="top", problem=problem, shapes=shapes)
    args = (scores.value, k) if scores.ids is None else (scores.value, k, scores.ids)
    node = context.call(sparse_form("top"), args, e.span, "top")
    values, ids = (context.builder.part(node, i) for i in (0, 1))
    classes = scores.classes[1] if scores.classes is not None else ()
    if scores.ids is None and classes != tuple(range(len(classes))):
        ids = _looked_up(context, ids, torch.tensor(classes), e)
    return replace(scores, value=values, ids=ids, name=f"top({scores.name})")


def smear(context: LossContext, e: ir.Call, labels: Signal, hierarchy: list[list[int]]) -> Signal:
    """Labels and the classes above them, as sparse targets of 1; `hierarchy` has rows of a class and those above it.

    Raises
    ------
    PlanError
        KD0284 for signals that are not labels.
    """
    if labels.role != "labels" or labels.classes is None:
        raise error("KD0284", e.args[0].span or e.span, name="smear")
    own = set(labels.classes[1])
    above = {row[0]: [c for c in row[1:] if c in own] for row in hierarchy}
    rows = [[c, *above.get(c, [])] for c in labels.classes[1]]
    width = max(map(len, rows))
    table = torch.tensor([[*row, *[-1] * (width - len(row))] for row in rows])
    ids = context.call(_rows, (context.builder.constant(table), labels.value), e.span, "smear")
    values = context.call(_known, (ids,), e.span, "smear")
    return Signal(values, "probabilities", labels.classes, None, "smear(labels)", ids=ids)


SPARSE: dict[str, Callable[..., Signal]] = {"top": top, "smear": smear}
"""The functions whose row says `built = "sparse"`."""


def sparse_loss(
    context: LossContext, e: ir.Call, logits: Signal, targets: Signal, keywords: dict[str, object]
) -> Signal:
    """A loss of logits against sparse targets.

    Raises
    ------
    PlanError
        KD0535 for logits as targets, KD0503 for targets of classes that the logits lack.
    """
    if logits.ids is not None:
        raise error("KD0530", e.args[0].span or e.span, what=f"`{e.function}`, as what learns,")
    if targets.role != "probabilities":
        right = FUNCTIONS[e.function].activation
        raise error("KD0535", e.args[1].span or e.span, function=e.function, right=right)
    ids = _columns(context, e, logits, targets)
    args = (logits.value, targets.value, ids)
    return Signal(context.call(sparse_form(e.function), args, e.span, e.function, keywords))


def _columns(context: LossContext, e: ir.Call, logits: Signal, targets: Signal) -> fx.Node:
    """The targets' classes as columns of the logits."""
    assert targets.ids is not None
    data = context.plan.data
    own, given = logits.classes, targets.classes
    if own is None or given is None or own[0] != given[0]:
        one = logits.count if own is None else len(own[1])
        two = targets.count if given is None else len(data[given[0]].classes)
        if one is not None and two is not None and one != two:
            raise other_classes(logits, targets, e)
        return targets.ids
    if not set(given[1]) <= set(own[1]):
        raise other_classes(logits, targets, e)
    count = len(data[own[0]].classes)
    if own[1] == tuple(range(count)):
        return targets.ids
    table = torch.full((count,), -1)
    table[torch.tensor(own[1])] = torch.arange(len(own[1]))
    return _looked_up(context, targets.ids, table, e)


def _looked_up(context: LossContext, ids: fx.Node, table: Tensor, e: ir.Call) -> fx.Node:
    """`table[ids]`; -1 stays -1."""
    constant = context.builder.constant(torch.cat([table, torch.tensor([-1])]))
    return context.call(torch.take, (constant, ids), e.span, e.function)


def _rows(table: Tensor, labels: Tensor) -> Tensor:
    """Rows of a table [C, D] for labels [B]."""
    return table.index_select(0, labels.long())


def _known(ids: Tensor) -> Tensor:
    """1 for each class, 0 for padding."""
    return (ids >= 0).float()
