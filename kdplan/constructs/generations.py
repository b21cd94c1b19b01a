"""`generations`: a line of networks, each with one phase, in which the network before it is the teacher.

generations line of resnet20 on D with R {
  count = 5
  patriarch  { loss = cross_entropy(self.logits, labels) }
  generation { loss = kl(previous.logits, self.logits) }
}
↓ for generation 3, of six
student line = resnet20 {
  seed = fold(seed, 3)
  phase train on D with R {
    def previous = line[2]
    loss = kl(previous.logits, self.logits)
  }
}
"""

from __future__ import annotations

from kdplan.constructs import Ask, tree
from kdplan.diagnostics.report import counted, error
from kdplan.diagnostics.span import Span
from kdplan.syntax import ast
from kdplan.syntax.walk import walk

INDEX = "generation"
"""What a member's number is called: in its expressions, its coordinates, and as the axis of a plot."""
PHASE = "train"
"""The phase that every member has."""


def slots(node: ast.Declaration) -> list[ast.Slot]:
    """The indices of a line: its own, then the generation's number, from 0 to `count`.

    Raises
    ------
    PlanError
        KD0270 where nothing says how many generations there are.
    """
    models = _clause(node, "of").exprs
    said = next((i.value for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "count"), None)
    if said is None and len(models) == 1:
        raise error("KD0270", node.head_span, name=node.name, what="no `count`", help="Add `count = 5`.")
    count = said or ast.Number(_clause(node, "of").word_span, len(models) - _first(node))
    values = ast.Range(count.span, ast.Number(count.span, 0), count)
    return [*node.slots, ast.Slot(count.span, INDEX, count.span, values)]


def lower(node: ast.Declaration, picks: list[ast.Expr], index: int, ask: Ask) -> ast.Declaration:
    """The network of one generation, with the phase that trains it.

    Parameters
    ----------
    picks
        What stands between the brackets for the line's own indices.
    index
        The generation's number.

    Raises
    ------
    PlanError
        KD0270 for a number of models or recipes that does not fit `count`; KD0271 for a line without a beginning, with
        two, or without generations; KD0272 for an `init` that does not fit what stands after `of`.
    """
    source, models = node.clause("from"), _clause(node, "of").exprs
    count = ask.setting("count")
    bodies = {d.kind: d for d in tree.inner(node)}
    _check_parts(node, bodies, count)
    trained = count + _first(node) if count is not None else len(models)
    if len(models) not in (1, trained):
        raise error("KD0270", _clause(node, "of").word_span.to(models[-1].span), name=node.name,
                    what=f"{counted(len(models), 'model')} for {counted(trained, 'network')}",
                    help="Give one model for all networks that are trained, or one for each.")  # fmt: skip
    if index == 0 and source is not None:
        return tree.declaration(
            "network", str(node.name), node.head_span, [tree.clause("=", source.exprs, source.span)]
        )
    place = index - 1 + _first(node)
    model = models[place] if len(models) > 1 else models[0]
    init = _init(node, model, models, ask)
    before = ast.Pick(model.span, tree.name(str(node.name), model.span), [*picks, ast.Number(model.span, index - 1)])
    start = before if init == "previous" and index else model
    body = bodies["generation" if index else "patriarch"]
    role = "student" if index else "teacher"
    own = [i for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "seed"]
    seed = own[0].value if own else tree.name("seed", node.head_span)
    folded = _fold(seed, index)
    items: list[ast.Item] = [tree.setting("seed", folded)] if index and init == "fresh" else [*own]
    phase = _phase(node, body, place, trained)
    if index:
        assert phase.items is not None
        phase.items.insert(0, _definition("previous", before, body.head_span))
        if init != "fresh":  # other batches than the generation before, from whatever weights
            phase.items.append(tree.setting("seed", _fold(tree.name("seed", seed.span), index)))
    return tree.declaration(
        role, str(node.name), body.head_span, [tree.clause("=", [start], model.span)], [*items, phase]
    )


def _clause(node: ast.Declaration, word: str) -> ast.Clause:
    found = node.clause(word)
    assert found is not None
    return found


def _first(node: ast.Declaration) -> int:
    """How many networks stand before generation 1 that are trained: the patriarch, or none."""
    return 1 if node.clause("from") is None else 0


def _fold(seed: ast.Expr, index: int) -> ast.Expr:
    return tree.call(tree.name("fold", seed.span), [seed, ast.Number(seed.span, index)], seed.span)


def _definition(word: str, value: ast.Expr, span: Span) -> ast.Declaration:
    return tree.declaration("def", word, span, [tree.clause("=", [value], span)])


def _check_parts(node: ast.Declaration, bodies: dict[str, ast.Declaration], count: int | None) -> None:
    """KD0271: a line begins with a patriarch or `from` one network, and goes on with `generation`."""
    source = node.clause("from")
    if source is not None and len(source.exprs) != 1:
        span, what = source.word_span.to(source.exprs[-1].span), f"{len(source.exprs)} networks after `from`"
        raise error("KD0271", span, name=node.name, what=what, help="Begin the line with one network.")
    if source is not None and "patriarch" in bodies:
        raise error("KD0271", bodies["patriarch"].head_span, name=node.name, what="both a `patriarch` and a network "
                    "after `from`", help="Delete one of them.")  # fmt: skip
    missing = "patriarch" if source is None and "patriarch" not in bodies else "generation"
    if missing not in bodies and (missing == "patriarch" or count != 0):
        raise error(
            "KD0271", node.head_span, name=node.name, what=f"no `{missing}`", help=f"Add `{missing} {{ loss = … }}`."
        )


def _init(node: ast.Declaration, model: ast.Expr, models: list[ast.Expr], ask: Ask) -> str:
    """What a generation begins with: as said, else `fresh` for a model and `same` for a network, which has weights.

    Raises
    ------
    PlanError
        KD0272 for `fresh` of a network, and for `previous` where the architecture changes along the line.
    """
    said = ask.setting("init")
    given = ask.is_network(model)
    place = next(
        (i.value.span for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "init"), model.span
    )
    if said == "fresh" and given:
        raise error("KD0272", place, init=said, why=f"`{model.span.text}` has weights already",
                    help="Write `init = same`, or a model after `of`.")  # fmt: skip
    if said == "previous":
        varies = len(models) > 1 or any(isinstance(n, ast.Name) and n.name == INDEX for n in walk(model))
        if varies or node.clause("from") is not None:
            why = "the architecture changes along the line" if varies else "the line begins `from` another network"
            raise error("KD0272", place, init=said, why=why, help="Write `init = fresh`.")
    return str(said or ("same" if given else "fresh"))


def _phase(node: ast.Declaration, body: ast.Declaration, place: int, trained: int) -> ast.Declaration:
    """The phase of a body, with what it does not say itself from the line; `place` among those that are trained.

    Raises
    ------
    PlanError
        KD0801 for a number of recipes that does not fit.
    """
    own = {c.word for c in body.clauses}
    clauses = [*body.clauses, *(c for c in node.clauses if c.word in ("on", "with") and c.word not in own)]
    for i, c in enumerate(clauses):
        if c.word == "with" and len(c.exprs) > 1:
            if "with" in own or len(c.exprs) != trained:
                raise error("KD0801", c.word_span.to(c.exprs[-1].span), found=len(c.exprs),
                            networks=1 if "with" in own else trained)  # fmt: skip
            clauses[i] = ast.Clause(c.span, c.word, c.word_span, [c.exprs[place]])
    items = body.items or []
    shared = [i for i in node.items or [] if tree.is_shared(i) and getattr(i, "name", "") != "seed"]
    return tree.phase(PHASE, body.head_span, clauses, [*tree.not_in(shared, items), *items])
