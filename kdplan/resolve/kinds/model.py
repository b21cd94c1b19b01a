"""`model`: architectures by name, with some of their arguments, and what their logits are over."""

from __future__ import annotations

from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.adapted import HELD
from kdplan.ir.plan import ClassSet, Item, Network
from kdplan.passes.load import Declared
from kdplan.resolve import weight_files
from kdplan.resolve.arguments import check_required
from kdplan.resolve.code import code_hash, code_of
from kdplan.resolve.context import Context, remember
from kdplan.resolve.values import Choice, ClassesValue, ModelValue, UserFunction, Value, describe
from kdplan.syntax import ast


def model_value(thing: Declared, span: Span, ctx: Context) -> ModelValue:
    """The architecture that a `model` declares."""

    def make(inner: Context) -> ModelValue:
        clause = thing.node.clause("=")
        assert clause is not None
        value = inner.child(exclude=thing.name).eval(clause.exprs[0], "model")
        return as_model(value, clause.exprs[0], inner)

    model = remember(ctx.in_module(thing.module), (thing, thing.name), "model", span, make)
    return ModelValue(model.item, model.classes, model.code, span, spans=model.spans)


def as_model(value: Value, node: ast.Expr, ctx: Context) -> ModelValue:
    """A value as an architecture.

    Raises
    ------
    PlanError
        KD0237 where a required argument is missing, KD0249 where it is no architecture.
    """
    if isinstance(value, ModelValue):
        return value
    if isinstance(value, Choice):
        check_required(ctx.session.tables["model"].get(value.item.name), value.item.arguments, value.span)
        item, spans = weight_files.placed(value.item, node, ctx.module.folder)
        return ModelValue(item, _classes_of(node, ctx), None, node.span, spans=spans)
    if isinstance(value, UserFunction) and value.name:
        return ModelValue(Item(f"{value.code.path}:{value.name}", {}, span=node.span), None, value.code, node.span)
    raise error("KD0249", node.span, wants="an architecture", found=describe(value))


def _classes_of(node: ast.Expr, ctx: Context) -> ClassSet | None:
    return argument_classes(node, ctx) if isinstance(node, ast.Call) else None


def argument_classes(node: ast.Call, ctx: Context) -> ClassSet | None:
    """The class set that a call's `classes` names, where it is one and not a number."""
    for keyword in node.keywords:
        if keyword.name == "classes":
            value = ctx.eval(keyword.value, "any")
            return value.classes if isinstance(value, ClassesValue) else None
    return None


def code_hash_of(model: ModelValue) -> str | None:
    """The hash of a user's code that makes a network."""
    if model.item.name in HELD:
        return code_of(model.codes)
    return code_hash(f"{model.code.path}:" if model.code else model.item.name)


def outputs(network: Network, ctx: Context) -> int | None:
    """How many classes a network's logits are over, where its architecture says so."""
    if network.classes is not None:
        return len(network.classes.ids)
    spec = ctx.session.tables["model"].get(network.architecture.name)
    param = spec.param("classes") if spec is not None else None
    count = network.architecture.arguments.get("classes", param.default if param is not None else None)
    return count if isinstance(count, int) else None


def over(network: Network, ctx: Context) -> str:
    """ "10 classes of `digits`": what a network's logits are over, for a message."""
    of = f" of `{network.classes.data}`" if network.classes is not None else ""
    label = f" (`{network.classes.label}`)" if network.classes is not None and network.classes.label else ""
    return f"{outputs(network, ctx)} classes{of}{label}"
