"""`generations`: a line of networks, each with one phase, in which the network before it is the teacher.

generations line of net on D with R {
  count = 2
  patriarch  { loss = cross_entropy(self.logits, labels) }
  generation { loss = kl(self.logits, previous.logits) }
}
↓
teacher line0 = net { phase train on D with R { loss = cross_entropy(self.logits, labels) } }
student line1 = net {
  seed = fold(seed, 1)
  phase train on D with R { loss = kl(self.logits, line0.logits) }
}
student line2 = net {
  seed = fold(seed, 2)
  phase train on D with R { loss = kl(self.logits, line1.logits) }
}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct, Index, LocalName
from kdplan.diagnostics.report import counted, error
from kdplan.diagnostics.span import Span
from kdplan.ir.settings import LOSS, RECIPE, SEED, S
from kdplan.ir.spec import Kind
from kdplan.syntax import ast
from kdplan.syntax.walk import walk

INDEX = "generation"
"""What a member's number is called: in its expressions, its coordinates, and as the axis of a plot."""
PHASE = "train"
"""The phase that every member has."""


def slot(node: ast.Declaration) -> ast.Slot:
    """The generation's number, from 0 to `count`, as an index.

    Raises
    ------
    PlanError
        KD0270 where nothing says how many generations there are.
    """
    models = _clause(node, "of").exprs
    written = next((i.value for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "count"), None)
    if written is None and len(models) == 1:
        raise error("KD0270", node.head_span, name=node.name, what="no `count`", help="Add `count = 5`.")
    count = written or ast.Number(_clause(node, "of").word_span, len(models) - _first(node))
    values = ast.Range(count.span, ast.Number(count.span, 0), count)
    return ast.Slot(count.span, INDEX, count.span, values)


def lower(node: ast.Declaration, labels: Mapping[str, object], ask: Ask) -> ast.Declaration:
    """The network of one generation, with the phase that trains it.

    Parameters
    ----------
    labels
        The values of the line's own indices, and the generation's number.

    Raises
    ------
    PlanError
        KD0270 for a number of models or recipes that does not fit `count`; KD0271 for a line without a beginning, with
        two, or without generations; KD0272 for an `init` that does not fit what stands after `of`.
    """
    index = labels[INDEX]
    assert isinstance(index, int)
    picks = [tree.literal(labels[s.name], s.span) for s in node.slots]
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
    position = index - 1 + _first(node)
    model = models[position] if len(models) > 1 else models[0]
    init = _init(node, model, models, ask)
    before = ast.Pick(model.span, tree.name(str(node.name), model.span), [*picks, ast.Number(model.span, index - 1)])
    start = before if init == "previous" and index else model
    body = bodies["generation" if index else "patriarch"]
    role = "student" if index else "teacher"
    own = [i for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "seed"]
    seed = own[0].value if own else tree.name("seed", node.head_span)
    folded = _fold(seed, index)
    items: list[ast.Item] = [tree.setting("seed", folded)] if index and init == "fresh" else [*own]
    phase = _phase(node, body, position, trained)
    if index:
        assert phase.items is not None
        phase.items.insert(0, _definition("previous", before, body.head_span))
        if init != "fresh":  # other batches than the generation before, from whatever weights
            phase.items.append(tree.setting("seed", _fold(tree.name("seed", seed.span), index)))
    return tree.declaration(
        role, str(node.name), body.head_span, [tree.clause("=", [start], model.span)], [*items, phase]
    )


def _clause(node: ast.Declaration, word: str) -> ast.Clause:
    clause = node.clause(word)
    assert clause is not None
    return clause


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
    written = ask.setting("init")
    given = ask.is_network(model)
    span = next((i.value.span for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "init"), model.span)
    if written == "fresh" and given:
        raise error("KD0272", span, init=written, why=f"`{model.span.text}` has weights already",
                    help="Write `init = same`, or a model after `of`.")  # fmt: skip
    if written == "previous":
        varies = len(models) > 1 or any(isinstance(n, ast.Name) and n.name == INDEX for n in walk(model))
        if varies or node.clause("from") is not None:
            why = "the architecture changes along the line" if varies else "the line begins `from` another network"
            raise error("KD0272", span, init=written, why=why, help="Write `init = fresh`.")
    return str(written or ("same" if given else "fresh"))


def _is_shared(item: ast.Item) -> bool:
    """What holds for every phase of a line: settings of recipes, definitions, and a measure."""
    if isinstance(item, ast.Declaration) and item.kind == "measure":
        return True
    return tree.is_shared(item) and getattr(item, "name", "") != "seed"


def _phase(node: ast.Declaration, body: ast.Declaration, position: int, trained: int) -> ast.Declaration:
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
            clauses[i] = ast.Clause(c.span, c.word, c.word_span, [c.exprs[position]])
    items = body.items or []
    shared = [i for i in node.items or [] if _is_shared(i)]
    return tree.phase(PHASE, body.head_span, clauses, [*tree.not_in(shared, items), *items])


def _generation(name: str, doc: str, example: str) -> Kind:
    return Kind(
        name,
        doc,
        f"{name} [on DATA] [with RECIPE] {{ loss = … }}",
        example,
        clauses=("on", "with"),
        settings=(replace(LOSS, example="loss = cross_entropy(self.logits, labels)"), *RECIPE),
        inner=("def", "measure"),
        nested=True,
        named=False,
        default_name=name,
        help={word: f"Write `{word}` in `generations`, for the whole line." for word in ("init", "count", "seed")},
    )


GENERATIONS = Construct(
    Kind(
        "generations",
        "A line of networks, each trained with the one before it as its teacher: one network with one phase a "
        "generation. `NAME[0]` is the patriarch, `NAME[m]` its m-th generation, `NAME[*]` all of them; what one of "
        "them is does not depend on how many there are.",
        "generations NAME[SLOTS] of MODELS [from NETWORK] on DATA with RECIPES { count = … patriarch { … } "
        "generation { … } }",
        "generations line of digits_net(width = 4) on digits with quick { count = 2  "
        "patriarch { loss = cross_entropy(self.logits, labels) }  "
        "generation { loss = kl(self.logits, previous.logits) } }",
        clauses=("of", "from", "on", "with"),
        required=("of", "on", "with"),
        settings=(
            S(
                "count",
                "integer",
                "generations after the patriarch",
                "one less than there are models after `of`",
                "count = 3",
                low=0,
            ),
            S(
                "init",
                "choice",
                "what a generation begins with: weights of its own, from the seed and its number; the same weights "
                "as every other one; or those that the generation before has learnt",
                "fresh; `same` for a network after `of`",
                "init = same",
                choices=("fresh", "same", "previous"),
            ),
            SEED,
            *RECIPE,
        ),
        inner=("patriarch", "generation", "def", "measure"),
        slots=True,
    ),
    (
        _generation(
            "patriarch",
            "In `generations`: how the first network of a line is trained. Not there where the line begins `from` a "
            "network that exists.",
            "generations line of digits_net(width = 4) on digits with quick { count = 0  "
            "patriarch { loss = cross_entropy(self.logits, labels) } }",
        ),
        _generation(
            "generation",
            "In `generations`: how every further network is trained; `previous` is the network before it, `self` the "
            "network itself, `generation` its number.",
            "generations line of digits_net(width = 4) from big on digits with quick { count = 2  "
            "generation { loss = kl(self.logits, previous.logits) } }",
        ),
    ),
    network=lower,
    index=Index(INDEX, "count", slot),
    names=(LocalName("previous", "generation", "Name a network: no generation comes before generation 0."),),
)
