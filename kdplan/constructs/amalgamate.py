"""`amalgamate`: one student of all classes from teachers of some of them, layer by layer and then as a whole.

amalgamate ka of both from a, b on D.unlabelled with R { layers = [stem.conv] }
↓
network coder = autoencoder(inputs = 4, code = 3)  # from the teachers' channels to the student's
phase code of coder on D.unlabelled with R {
  loss = 0.5 * squared_l2(coder(concat(a.stem.conv, b.stem.conv)), concat(a.stem.conv, b.stem.conv))
}
student fitted = adapted(both, behind = [stem.conv], shape = [1, 8, 8])  # a linear map behind each layer
phase layer of upto(fitted.stem.conv.layer) on D.unlabelled with R {
  loss = 0.5 * squared_l2(fitted.stem.conv.layer, coder@code(concat(a.stem.conv, b.stem.conv)).code)
}
phase scores of upto(fitted.logits, from = stem.conv.layer) on D.unlabelled with R {
  def codes = coder@code(concat(a.stem.conv, b.stem.conv)).code
  loss = 0.5 * squared_l2(
    through(codes, fitted.logits, from = stem.conv.layer), concat(a.logits, b.logits))
}
student layerwise = merge(fitted@layer, fitted@scores)
phase joint of layerwise on D.unlabelled with R {
  loss = 0.5 * squared_l2(layerwise.logits, concat(a.logits, b.logits))
}
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from kdplan.constructs import tree
from kdplan.constructs.ask import Ask
from kdplan.constructs.construct import Construct
from kdplan.constructs.teachers import Scores, channels, check_images, check_teachers, chosen, scores
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.adapted import LAYER
from kdplan.ir.settings import RECIPE, SEED, S
from kdplan.ir.spec import Kind
from kdplan.syntax import ast

FITTED, LAYERWISE, JOINT, SCORES = "fitted", "layerwise", "joint", "scores"
"""Names of the student with its maps, of the student that joins its layers, and of the phases after the layers'."""


@dataclass
class _Plan:
    """What an amalgamation lowers, and the declarations that it has so far."""

    node: ast.Declaration
    ask: Ask
    student: ast.Expr
    teachers: list[ast.Expr]
    layers: list[str]
    names: dict[str, str]
    """Layer -> the word that stands for it."""
    declarations: list[ast.Declaration]
    with_maps: bool
    scores: Scores

    def tap(self, layer: str) -> str:
        """A layer's own value in the student."""
        return f"{layer}.{LAYER}" if self.with_maps else layer


def lower(node: ast.Declaration, ask: Ask) -> list[ast.Declaration]:
    """Networks and phases, each after those that it reads.

    Raises
    ------
    PlanError
        KD0277 where no recipe is named, KD0279 for several students or data sets, KD0291 to KD0299 for teachers,
        layers, classes and images that do not fit.
    """
    of, source, on = (node.clause(word) for word in ("of", "from", "on"))
    assert of is not None and source is not None and on is not None
    for clause, what in ((of, "students"), (on, "data sets")):
        if len(clause.exprs) != 1:
            what = f"{len(clause.exprs)} {what}"
            raise error("KD0279", clause.word_span.to(clause.exprs[-1].span), name=node.name, what=what)
    student = of.exprs[0]
    teachers = [t for e in source.exprs for t in ask.each(e)]
    span = source.word_span.to(source.exprs[-1].span)
    if len(teachers) < 2:
        raise error("KD0291", span, name=node.name, count=len(teachers))
    check_images(teachers, on.exprs[0], span, ask)
    common = check_teachers(teachers, span, ask)
    own = ask.layers(student)
    paths = chosen(node, student, teachers, common, own, ask)
    joined = scores(student, teachers, own, span, ask)
    names: dict[str, str] = {}
    for path in paths:
        word = re.sub(r"\W", "_", path)
        names[path] = word if not word[0].isdigit() else f"layer_{word}"
    plan = _Plan(node, ask, student, teachers, paths, names, [], ask.setting("adapt") != "none", joined)
    widths = channels(node, paths, common, own, len(teachers), ask)
    codes = {path: _codes(plan, path, *widths[path]) for path in paths}
    fitted = _fitted(plan)
    before: tuple[str, ast.Expr] | None = None
    for path in paths:
        _layer_phase(plan, fitted, names[path], plan.tap(path), before, codes[path])
        before = plan.tap(path), codes[path]
    _layer_phase(plan, fitted, SCORES, joined.tap, before, _target(plan))
    _joint(plan, fitted)
    return plan.declarations


# ---- pieces of text


def _span(plan: _Plan) -> Span:
    return plan.node.head_span


def _version(network: ast.Expr, phase: str) -> ast.Expr:
    return ast.Version(network.span, network, phase, network.span)


def _concat(parts: Sequence[ast.Expr], span: Span) -> ast.Expr:
    return parts[0] if len(parts) == 1 else tree.call(tree.name("concat", span), parts, span)


def _loss(plan: _Plan, value: ast.Expr, wanted: ast.Expr) -> ast.Setting:
    span = _span(plan)
    match = plan.ask.setting("match") or tree.name("squared_l2", span)
    half = ast.Binary(span, "*", ast.Number(span, 0.5), tree.call(match, [value, wanted], span))
    return tree.setting("loss", half)


def _phase(plan: _Plan, part: str, word: str, of: Sequence[ast.Expr], loss: ast.Setting) -> None:
    """A phase, with the recipe and the settings of its part of the construct."""
    node, span = plan.node, _span(plan)
    bodies = {d.kind: d for d in tree.inner(node)}
    chain = {"codes": ("codes", LAYERWISE), LAYERWISE: (LAYERWISE,), JOINT: (JOINT,)}[part]
    recipes = [c for k in chain if k in bodies and (c := bodies[k].clause("with"))]
    recipe = recipes[0] if recipes else node.clause("with")
    if recipe is None:
        raise error("KD0277", bodies[part].head_span if part in bodies else span, name=node.name, part=part)
    on = node.clause("on")
    assert on is not None
    data = tree.tap(on.exprs[0], "unlabelled", on.exprs[0].span)
    items = bodies[part].items or [] if part in bodies else []
    shared = [i for i in node.items or [] if tree.is_shared(i)]
    clauses = [tree.clause("of", of, span), tree.clause("on", [data], span), recipe]
    plan.declarations.append(tree.phase(word, span, clauses, [*tree.not_in(shared, items), *items, loss]))


def _network(plan: _Plan, kind: str, word: str, value: ast.Expr) -> ast.Expr:
    """A network, and the expression that means it."""
    span = _span(plan)
    own = [i for i in plan.node.items or [] if isinstance(i, ast.Setting) and i.name == "seed" and kind == "network"]
    plan.declarations.append(tree.declaration(kind, word, span, [tree.clause("=", [value], span)], [*own]))
    return tree.name(word, span)


# ---- features


def _codes(plan: _Plan, path: str, teacher: int, student: int) -> ast.Expr:
    """The phases of a layer's auto-encoders, and the code: what the student's layer is to give."""
    word = f"code_{plan.names[path]}"
    taps = [tree.tap(t, path, t.span) for t in plan.teachers]
    if plan.ask.setting("features") != "incremental":
        return _code(plan, word, taps, len(taps) * teacher, student)
    order: list[int] = plan.ask.setting("order") or [*range(len(taps))]
    if sorted(order) != [*range(len(taps))]:
        given = next(i.value.span for i in plan.node.items or [] if isinstance(i, ast.Setting) and i.name == "order")
        raise error("KD0299", given, count=len(taps), last=len(taps) - 1)
    code: ast.Expr = taps[order[0]]
    width = teacher
    for step, i in enumerate(order[1:], 1):
        last = step == len(order) - 1
        code = _code(plan, word if last else f"{word}_{step}", [code, taps[i]], width + teacher, student)
        width = student
    return code


def _code(plan: _Plan, word: str, parts: Sequence[ast.Expr], inputs: int, width: int) -> ast.Expr:
    span = _span(plan)
    sizes = {"inputs": ast.Number(span, inputs), "code": ast.Number(span, width)}
    net = _network(
        plan,
        "network",
        f"coder_{word.removeprefix('code_')}",
        tree.call(tree.name("autoencoder", span), [], span, **sizes),
    )
    features = _concat(parts, span)
    restored = tree.tap(tree.call(net, [features], span), "output", span)
    _phase(plan, "codes", word, [net], _loss(plan, restored, features))
    return tree.tap(tree.call(_version(net, word), [features], span), "code", span)


# ---- the student


def _fitted(plan: _Plan) -> ast.Expr:
    """The student as its layers learn it: with maps behind them, and an output for each entry of the scores."""
    entries = plan.scores.entries
    if not plan.with_maps and entries is None:
        return plan.student
    span = _span(plan)
    on = plan.node.clause("on")
    assert on is not None
    paths = [_path(p, span) for p in plan.layers] if plan.with_maps else []
    keywords: dict[str, ast.Expr] = {
        "behind": ast.List(span, [*paths]),
        "shape": ast.List(span, [ast.Number(span, n) for n in plan.ask.images(on.exprs[0])]),
    }
    if entries is not None:
        of = ast.List(span, [ast.Number(span, i) for i in entries])
        keywords["entries"] = ast.List(span, [_path(plan.scores.layer, span), of])
    return _network(plan, "student", FITTED, tree.call(tree.name("adapted", span), [plan.student], span, **keywords))


def _path(path: str, span: Span) -> ast.Expr:
    first, _, rest = path.partition(".")
    return tree.tap(tree.name(first, span), rest, span) if rest else tree.name(first, span)


def _layer_phase(
    plan: _Plan, student: ast.Expr, word: str, tap: str, before: tuple[str, ast.Expr] | None, target: ast.Expr
) -> None:
    """What lies between two layers, from the code of one to that of the next."""
    span, me = _span(plan), tree.bare(student)
    since = {"from": tree.tap(me, before[0], span)} if before is not None else {}
    trainees = tree.call(tree.name("upto", span), [tree.tap(student, tap, span)], span, **since)
    value = tree.tap(me, tap, span)
    if before is not None:
        value = tree.call(tree.name("through", span), [before[1], value], span, **since)
    _phase(plan, LAYERWISE, word, [trainees], _loss(plan, value, target))


def _target(plan: _Plan) -> ast.Expr:
    """The teachers' scores side by side."""
    span = _span(plan)
    parts = []
    for teacher, kept in zip(plan.teachers, plan.scores.kept, strict=True):
        logits = tree.tap(teacher, "logits", teacher.span)
        if kept is not None and kept:
            at = ast.List(span, [ast.Number(span, i) for i in kept])
            logits = tree.call(tree.name("columns", span), [logits], span, at=at)
        if kept is None or kept:
            parts.append(logits)
    return _concat(parts, span)


def _joint(plan: _Plan, student: ast.Expr) -> None:
    span = _span(plan)
    words = [*(plan.names[p] for p in plan.layers), SCORES]
    parts = [_version(tree.bare(student), w) for w in words]
    whole = _network(plan, "student", LAYERWISE, tree.call(tree.name("merge", span), parts, span))
    _phase(plan, JOINT, JOINT, [whole], _loss(plan, tree.tap(whole, plan.scores.tap, span), _target(plan)))


_KA = "amalgamate ka of both from t[*] on digits with quick {"

AMALGAMATE = Construct(
    Kind(
        "amalgamate",
        "One student from teachers of different classes, without labels. For each layer an auto-encoder squeezes the "
        "teachers' features; then each layer of the student learns to go from one code to the next, and the last one "
        "to the teachers' scores; then all of them learn these scores together. One phase each, of which the former do "
        "not wait for one another. `N@NAME` is the student after the last, `N@NAME@layerwise` before it.",
        "amalgamate NAME[SLOTS] of STUDENT from TEACHERS on DATA with RECIPE { settings, codes, layerwise, joint }",
        f"{_KA} }}",
        clauses=("of", "from", "on", "with"),
        required=("of", "from", "on"),
        settings=(
            S(
                "layers",
                "paths",
                "the layers that learn one by one, which all networks have: or `auto`, all that have weights; what is "
                "between two of them learns with the second. The layer that gives the scores is always one",
                "auto",
                "layers = [stem.conv, layer1[0].conv]",
            ),
            S(
                "features",
                "choice",
                "`direct`: one auto-encoder for the features of all teachers; `incremental`: one for those of two, "
                "then one for its code and those of a third, and so on",
                "direct",
                "features = incremental",
                choices=("direct", "incremental"),
            ),
            S(
                "order",
                "integers",
                "of the teachers, counted from 0, where features are joined one after another",
                "as they stand after `from`",
                "features = incremental  order = [1, 0]",
            ),
            S(
                "adapt",
                "choice",
                "`fam`: a linear map of channels behind each of the layers, which learns with the next one; `none`: "
                "the student as it is",
                "fam",
                "adapt = none",
                choices=("fam", "none"),
            ),
            S(
                "scores",
                "choice",
                "of a class that several teachers know: `separate`, a score for each of them, of which the largest "
                "counts when the student is used; `one`, the first teacher's alone",
                "separate",
                "scores = one",
                choices=("separate", "one"),
            ),
            S(
                "match",
                "function",
                "the distance that is made small, of which half counts",
                "squared_l2",
                "match = mse",
            ),
            SEED,
            *RECIPE,
        ),
        inner=("codes", "layerwise", "joint", "def"),
        slots=True,
    ),
    (
        *(
            Kind(
                name,
                f"In `amalgamate`: the recipe of {what}.",
                f"{name} with RECIPE {{ settings }}",
                f"{_KA}  {name} with quick {{ epochs = 2 }} }}",
                clauses=("with",),
                settings=(SEED, *RECIPE),
                inner=("def", "measure") if name == "joint" else ("def",),
                nested=True,
                named=False,
                default_name=name,
            )
            for name, what in (
                ("codes", "the auto-encoders' phases; by default that of `layerwise`"),
                ("layerwise", "the phases of single layers"),
                ("joint", "the last phase, in which all layers learn together"),
            )
        ),
    ),
    phases=lower,
)
