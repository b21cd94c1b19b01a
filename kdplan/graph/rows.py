"""What a function's row asks of its arguments, and what it says of the result.

The rows are those of `kdplan.ir.functions`. No rule here knows a function by its name.
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from kdplan.diagnostics.report import error, listing
from kdplan.graph.loss_context import LossContext
from kdplan.graph.messages import mismatch, other_classes
from kdplan.graph.signals import Signal, permutation
from kdplan.ir import expr as ir
from kdplan.ir.spec import Param, Spec
from kdplan.nn.losses import as_logits

# ---- arguments


def check_arguments(
    context: LossContext, spec: Spec, args: list[Signal], keywords: dict[str, object], e: ir.Call
) -> list[Signal]:
    """The arguments of a call, scores that are compared number by number in one order of classes.

    Raises
    ------
    PlanError
        KD0243 for a number of classes or positions that there are not, KD0502 for shapes and KD0503 for classes that
        do not fit.
    """
    if spec.alike:
        args = _same_classes(context, args, e)
        _check_alike(spec, args, e)
    for param in spec.params:
        if param.at_most_classes:
            _check_count(param, args[0], e)
        elif param.type == "positions":
            _check_positions(param, args[0], keywords[param.name], e)
    return args


def over_classes(
    context: LossContext, spec: Spec, args: list[Signal], keywords: dict[str, object], e: ir.Call
) -> list[Signal]:
    """Both sides of a comparison over the same classes in the same order.

    Where the row says that it compares distributions, probabilities become logits of themselves.

    Raises
    ------
    PlanError
        KD0510 for labels and KD0505 for probabilities that the row does not accept, KD0503 for other classes.
    """
    signals = [p for p in spec.params if p.type == "signal"]
    for a, param, node in zip(args, signals, e.args, strict=True):
        if a.role == "labels" and "labels" not in param.roles:
            order, wants = ", ".join(p.name for p in signals), " or ".join(param.roles)
            raise error("KD0510", node.span or e.span, function=e.function, wants=wants, order=order)
    softened = keywords.get("temperature", 1) != 1
    for a, param, node in zip(args, signals, e.args, strict=True) if spec.distributions else ():
        if a.role == "probabilities" and (softened or "probabilities" not in param.roles):
            raise error("KD0505", node.span or e.span, function=e.function, help=_logits_help(node))
    first, second = _in_order(context, args[0], args[1], e)
    return [_as_logits(context, s, e) if spec.distributions else s for s in (first, second)]


def _in_order(context: LossContext, first: Signal, second: Signal, e: ir.Call) -> tuple[Signal, Signal]:
    """Two signals in one order of classes: that of the labels, or else of the first."""
    try:
        if second.role == "labels":
            order = permutation(first, second)
        else:
            order = permutation(second, first)
    except LookupError:
        raise other_classes(first, second, e) from None
    if order is None:
        return first, second
    if second.role == "labels":
        return replace(first, value=context.reordered(first, order, e), classes=second.classes), second
    return first, replace(second, value=context.reordered(second, order, e), classes=first.classes)


def _as_logits(context: LossContext, signal: Signal, e: ir.Call) -> Signal:
    if signal.role != "probabilities":
        return signal
    return replace(signal, value=context.call(as_logits, (signal.value,), e.span, e.function))


def _logits_help(node: ir.Expr) -> str:
    if isinstance(node, ir.Tap) and node.span is not None and node.span.text.endswith(".probabilities"):
        return f"Write `{node.span.text.removesuffix('probabilities')}logits`."
    return "Remove `softmax`."


def _same_classes(context: LossContext, args: list[Signal], e: ir.Call) -> list[Signal]:
    """Two scores that are compared number by number, over the same classes in the same order."""
    if len(args) != 2 or {a.role for a in args} not in ({"logits"}, {"probabilities"}):
        return args
    first, second = args
    try:
        order = permutation(first, second)
    except LookupError:
        if first.classes is None or second.classes is None:
            return args  # their shapes differ too, and KD0502 shows these
        raise other_classes(first, second, e) from None
    if order is None:
        return args
    return [replace(first, value=context.reordered(first, order, e), classes=second.classes), second]


def _check_alike(spec: Spec, args: list[Signal], e: ir.Call) -> None:
    """KD0502 where signals that are compared differ in what the function's row says."""
    convention = e.keywords.get("convention")
    default = next((p.default for p in spec.params if p.name == "convention"), "")
    aspect = spec.alike[str(convention.value) if isinstance(convention, ir.Const) else default]
    half = len(args) // 2
    for i, (a, b) in enumerate(zip(args[:half], args[half:], strict=True)):
        maps = len(a.shape) == len(b.shape) == 4
        if aspect == "shape" and a.shape != b.shape:
            raise mismatch(e, (a, b), (i, half + i))
        if aspect == "channels" and maps and a.shape[1] != b.shape[1]:
            raise mismatch(e, (a, b), (i, half + i), "channels")
        if aspect == "size" and maps and a.shape[2:] != b.shape[2:]:
            raise mismatch(e, (a, b), (i, half + i), "size")


def _check_count(param: Param, scores: Signal, e: ir.Call) -> None:
    """KD0243 where a number of classes is more than there are."""
    given = e.keywords.get(param.name)
    number = given.value if isinstance(given, ir.Const) else param.default
    assert isinstance(number, int)
    if len(scores.shape) > 1 and number > scores.shape[1]:
        what, limit = f"`{param.name}` of `{e.function}`", f"at most {scores.shape[1]}"
        raise error("KD0243", given.span if given else e.span, what=what, limit=limit, value=number)


def _check_positions(param: Param, x: Signal, positions: object, e: ir.Call) -> None:
    """KD0243 where a signal lacks a position of dimension 1."""
    assert isinstance(positions, list)
    if len(x.shape) < 2 or not all(0 <= i < x.shape[1] for i in positions):
        limit = f"from 0 to {x.shape[1] - 1}" if len(x.shape) > 1 else "of a signal [B, C]"
        what, value = f"`{param.name}` of `{e.function}`", listing(map(str, positions))
        raise error("KD0243", e.span, what=what, limit=limit, value=value)


# ---- results


def result(spec: Spec, node: fx.Node, args: list[Signal], keywords: dict[str, object]) -> Signal:
    """The signal that a call gives, by `gives` of its row."""
    inner = ", ".join(a.name for a in args if a.name)
    plain = Signal(node, name=f"{spec.name}({inner})" if args else spec.name)
    if spec.gives == "term":
        return Signal(node)
    if spec.gives == "same":
        return replace(args[0], value=node)
    if spec.gives == "probabilities":
        if not args:
            return replace(plain, role="probabilities", count=node.meta["val"].shape[1])
        known = args[0].role in ("logits", "labels") or args[0].ids is not None
        return replace(args[0], value=node, role="probabilities") if known else plain
    if spec.gives == "joined":
        return _joined(plain, args)
    if spec.gives == "selected":
        return _selected(plain, args[0], keywords)
    return plain


def _joined(plain: Signal, args: list[Signal]) -> Signal:
    """Of scores over different classes of one data set, scores over all of these."""
    roles, sets = {a.role for a in args}, [a.classes for a in args]
    ids = [c for s in sets if s is not None for c in s[1]]
    data = {s[0] if s is not None else None for s in sets}
    if roles not in ({"logits"}, {"probabilities"}) or None in data or len(data) > 1 or len(set(ids)) < len(ids):
        return plain
    return replace(plain, role=args[0].role, classes=(str(data.pop()), tuple(ids)), count=len(ids))


def _selected(plain: Signal, x: Signal, keywords: dict[str, object]) -> Signal:
    """Some classes of scores, or channels of features, in the order of the keyword that holds positions."""
    at = keywords["at"]
    assert isinstance(at, list)
    classes = (x.classes[0], tuple(x.classes[1][i] for i in at)) if x.classes is not None else None
    return replace(x, value=plain.value, classes=classes, count=len(at), name=plain.name)
