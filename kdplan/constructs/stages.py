"""`stages`: one phase a stage, then one for the head.

stages mimic of small from big on D with R {
  stage s1 { small.layer1 ~ big.layer1 }
  stage s2 { small.layer2 ~ big.layer2 }
  head { loss = cross_entropy(small.logits, labels) }
}
↓
phase s1 of upto(small.layer1) on D with R { loss = squared_l2(fit(small.layer1, like = big.layer1), big.layer1) }
phase s2 of upto(small@s1.layer2, from = layer1) on D with R {
  loss = squared_l2(fit(small.layer2, like = big.layer2), big.layer2)
}
phase top of upto(small@s2.output, from = layer2) on D with R { loss = cross_entropy(small.logits, labels) }
"""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct
from kdplan.constructs.ladder import ladder, natural, steps
from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut
from kdplan.ir.settings import LOSS, RECIPE, SEED, S
from kdplan.ir.spec import Kind
from kdplan.syntax import ast


@dataclass
class _Stage:
    """A stage before it is a phase: its pairs, and what its own body says."""

    name: str
    span: Span
    pairs: list[tuple[ast.Expr, ast.Expr, Span]]
    clauses: list[ast.Clause]
    items: list[ast.Item]


def lower(node: ast.Declaration, ask: Ask) -> list[ast.Declaration]:
    """The phases of a ladder, in order.

    Raises
    ------
    PlanError
        KD0265 to KD0269: no stages or two kinds of them, not one network, a stage without pairs, a pair that is the
        wrong way round; KD0605, KD0606: no stages, or not so many, can be found.
    """
    network = _network(node)
    written = [d for d in tree.inner(node) if d.kind == "stage"]
    pairs = _found(node, network, written, ask)
    shared = [i for i in node.items or [] if tree.is_shared(i)]
    phases: list[ast.Declaration] = []
    before: list[ast.Expr] = []
    for stage in pairs:
        taps = [student for student, _, _ in stage.pairs]
        loss = tree.total([_distance(s, t, span, ask) for s, t, span in stage.pairs], stage.span)
        phases.append(
            _phase(node, stage.name, stage.span, _upto(taps, before, network, phases, stage.span), stage.clauses,
                   [*tree.not_in(shared, stage.items), *stage.items, tree.setting("loss", loss)])
        )  # fmt: skip
        before = taps
    for head in [d for d in tree.inner(node) if d.kind == "head"]:
        phases.append(_head(node, head, network, before, phases, shared))
    return phases


def _network(node: ast.Declaration) -> ast.Expr:
    of = node.clause("of")
    assert of is not None
    if len(of.exprs) != 1:
        raise error("KD0266", of.word_span.to(of.exprs[-1].span), count=len(of.exprs))
    return of.exprs[0]


# ---- which stages


def _found(node: ast.Declaration, network: ast.Expr, written: list[ast.Declaration], ask: Ask) -> list[_Stage]:
    wanted = ask.setting("stages") is not None or ask.setting("count") is not None
    if written and wanted:
        raise error("KD0265", written[0].head_span, name=node.name, what="both written stages and `stages = auto`",
                    help="Delete one of them.")  # fmt: skip
    if written:
        return [_written(d, network) for d in written]
    if not wanted:
        raise error("KD0265", node.head_span, name=node.name, what="no stages",
                    help="Write `stages = auto`, or `stage s1 { small.layer1 ~ big.layer1 }`.")  # fmt: skip
    return _automatic(node, network, ask)


def _written(stage: ast.Declaration, network: ast.Expr) -> _Stage:
    pairs = [i for i in stage.items or [] if isinstance(i, ast.Pair)]
    if not pairs:
        raise error("KD0267", stage.head_span, name=stage.name)
    for pair in pairs:
        if tree.rooted(pair.left, tree.bare(network), network) is None:
            raise error("KD0268", pair.left.span, found=pair.left.span.text, name=tree.bare(network).span.text)
    rest: list[ast.Item] = [i for i in stage.items or [] if not isinstance(i, ast.Pair)]
    assert stage.name is not None
    return _Stage(stage.name, stage.span, [(p.left, p.right, p.span) for p in pairs], stage.clauses, rest)


def _automatic(node: ast.Declaration, network: ast.Expr, ask: Ask) -> list[_Stage]:
    source = node.clause("from")
    if source is None or len(source.exprs) != 1:
        raise error("KD0269", node.head_span, name=node.name, count=len(source.exprs) if source else 0)
    teacher = source.exprs[0]
    count = ask.setting("count")
    spans = {i.name: i.span for i in node.items or [] if isinstance(i, ast.Setting)}
    span = spans.get("stages") or spans["count"]
    sides = [natural(ask.cuts(side)) for side in (network, teacher)]
    for side, runs in zip((network, teacher), sides, strict=True):
        if not runs or (len(runs) < 2 and count is None):
            raise error("KD0605", span, name=side.span.text, sizes=_sizes(runs))
    pairs = steps(*sides)
    ends = ladder(pairs, count)
    if ends is None:
        most = sum(stage.most for stage in pairs)
        raise error("KD0606", spans["count"], count=count, most=most, first=network.span.text, second=teacher.span.text)
    return [
        _Stage(f"s{i}", span, [(tree.tap(tree.bare(network), s, span), tree.tap(teacher, t, span), span)], [], [])
        for i, (s, t) in enumerate(ends, start=1)
    ]


def _sizes(runs: list[tuple[Cut, ...]]) -> str:
    sizes = list(dict.fromkeys("×".join(map(str, c.size)) for run in runs for c in run))
    return (
        f"its features are {listing(sizes)} throughout"
        if sizes
        else "it has no feature map on which all later values depend"
    )


# ---- phases


def _distance(student: ast.Expr, teacher: ast.Expr, span: Span, ask: Ask) -> ast.Expr:
    adapt = ask.setting("adapt")
    if adapt is None or (isinstance(adapt, ast.Name) and adapt.name in ("conv1x1", "fit")):
        student = tree.call(tree.name("fit", span), [student], span, like=teacher)
    elif not (isinstance(adapt, ast.Name) and adapt.name == "none"):
        student = tree.call(adapt, [student, teacher], span)
    return tree.call(ask.setting("match") or tree.name("squared_l2", span), [student, teacher], span)


def _upto(
    taps: list[ast.Expr], before: list[ast.Expr], network: ast.Expr, phases: list[ast.Declaration], span: Span
) -> list[ast.Expr]:
    """`upto(small@s1.layer2, from = small.layer1)`: what lies between the taps of two stages."""
    trained = [_trained(t, network, phases) for t in taps]
    keywords = {"from": before[0] if len(before) == 1 else ast.List(span, list(before))} if before else {}
    span = taps[0].span
    return [tree.call(tree.name("upto", span), trained, span, **keywords)]


def _trained(tap: ast.Expr, network: ast.Expr, phases: list[ast.Declaration]) -> ast.Expr:
    """A tap of the network as the last phase left it; before the first, as it stands after `of`."""
    start, word = network, phases[-1].name if phases else None
    if word is not None:
        start = ast.Version(tap.span, tree.bare(network), word, tap.span)
    return tree.rooted(tap, tree.bare(network), start) or tap


def _phase(
    node: ast.Declaration,
    name: str,
    span: Span,
    of: list[ast.Expr],
    clauses: list[ast.Clause],
    items: list[ast.Item],
) -> ast.Declaration:
    own = {c.word for c in clauses}
    inherited = [c for c in node.clauses if c.word in ("on", "with") and c.word not in own]
    head = [tree.clause("of", of, span)] if "of" not in own else []
    return tree.phase(name, span, [*head, *clauses, *inherited], items)


def _head(
    node: ast.Declaration,
    head: ast.Declaration,
    network: ast.Expr,
    before: list[ast.Expr],
    phases: list[ast.Declaration],
    shared: list[ast.Item],
) -> ast.Declaration:
    span, items = head.head_span, head.items or []
    clauses = [
        ast.Clause(c.span, c.word, c.word_span, [_trained(e, network, phases) for e in c.exprs])
        if c.word == "of"
        else c
        for c in head.clauses
    ]
    end = tree.tap(tree.bare(network), "output", span)
    return _phase(node, head.name or "head", span, _upto([end], before, network, phases, span), clauses,
                  [*tree.not_in(shared, items), *items])  # fmt: skip


STAGES = Construct(
    Kind(
        "stages",
        "Trains a network's backbone stage by stage on a teacher's features, without labels, and then its head: "
        "one phase a stage, in which what comes before is frozen and what comes after does not run. `N@NAME` is "
        "the network after the last of these phases, `N@NAME@STAGE` after one of them.",
        "stages NAME[SLOTS] of NETWORK from TEACHER on DATA with RECIPE { stage s1 { a ~ b } … head { … } }",
        "stages mimic of small from big on digits with quick { stages = auto }",
        clauses=("of", "from", "on", "with"),
        required=("of", "on", "with"),
        settings=(
            S(
                "stages",
                "choice",
                "finds the stages from the shapes of both networks: a stage ends where the features become smaller",
                "as written",
                "stages = auto",
                choices=("auto",),
            ),
            S(
                "count",
                "integer",
                "how many stages to find: where there are more, the first ones are joined; where there are fewer, "
                "the first ones are divided evenly",
                "as many as there are",
                "stages = auto  count = 2",
                above=0,
            ),
            S("match", "function", "the distance of a pair of taps", "squared_l2", "stages = auto  match = mse"),
            S(
                "adapt",
                "function",
                "what makes the student's tap as the teacher's where shapes differ: `conv1x1` (with resizing where "
                "sizes differ), `none`, or a function of the two",
                "conv1x1",
                "stages = auto  adapt = none  match = attention",
            ),
            SEED,
            *RECIPE,
        ),
        inner=("stage", "head", "def"),
        slots=True,
    ),
    (
        Kind(
            "stage",
            "In `stages`: one phase, in which the part of the network up to these taps, and from those of the stage "
            "before on, learns to give what the teacher gives there.",
            "stage NAME [with RECIPE] { student.tap ~ teacher.tap }",
            "stages mimic of small on digits with quick { stage s1 { small.layer1 ~ big.layer1 } }",
            clauses=("with",),
            settings=(SEED, *RECIPE),
            inner=("def",),
            nested=True,
            pairs=True,
        ),
        Kind(
            "head",
            "In `stages`: the last phase, in which all that comes after the last stage's taps is trained and the "
            "backbone is frozen.",
            "head [of PARTS] [on DATA] [with RECIPE] { loss = … }",
            "stages mimic of small from big on digits with quick { stages = auto  "
            "head { loss = cross_entropy(small.logits, labels) } }",
            clauses=("of", "on", "with"),
            settings=(
                LOSS,
                SEED,
                *RECIPE,
            ),
            inner=("def", "measure"),
            nested=True,
            named=False,
            default_name="head",
        ),
    ),
    phases=lower,
)
