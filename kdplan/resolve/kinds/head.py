"""`head` and `logit_scale` of a network: layers in place of its last one, by verticals of its classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.heads import headed
from kdplan.ir.origins import Fresh, Loaded
from kdplan.ir.plan import Network, Plain
from kdplan.ir.spec import Spec
from kdplan.nn.layers import LAYERS, LOGIT_SCALES
from kdplan.resolve.arguments import check_required
from kdplan.resolve.context import Context
from kdplan.resolve.values import Choice, ListValue, Value, describe
from kdplan.syntax import ast

SETTINGS = ("head", "logit_scale")


def attach(network: Network, classes: int | None, node: ast.Declaration, ctx: Context) -> None:
    """Gives a network the head that its declaration asks for.

    Raises
    ------
    PlanError
        KD0287 for verticals that are not those of the network's classes, KD0288 for layers that do not fit one
        another, KD0289 for a network that has its weights, or its layers, from another one.
    """
    given = {i.name: i.value for i in node.items or [] if isinstance(i, ast.Setting) and i.name in SETTINGS}
    if not given:
        return
    span = next(iter(given.values())).span
    if not isinstance(network.origin, Fresh | Loaded):
        raise error("KD0289", span, problem="it starts from another network and keeps its layers")
    if classes is None:
        raise error(
            "KD0289", span, problem="the number of classes of the network is unknown", help="Add `classes = …`."
        )
    groups: list[tuple[list[list[int]], Span]] = []
    layers = _layers(given["head"], ctx, groups) if "head" in given else []
    logit_scale = _logit_scale(given["logit_scale"], ctx, groups) if "logit_scale" in given else None
    if not layers and logit_scale is None:
        return
    parts = None
    for by, span in groups:
        positions = _columns(by, network, classes, span, ctx)
        if parts is not None and positions != parts:
            raise error("KD0288", span, problem="all of them must be by the same verticals", help=None)
        parts = positions
    network.architecture = headed(network.architecture, layers, classes, parts, logit_scale)


def _layers(node: ast.Expr, ctx: Context, groups: list[tuple[list[list[int]], Span]]) -> list[list[Plain]]:
    value = ctx.eval(node, "head")
    layers: list[list[Plain]] = []
    apart = False
    for item in value.items if isinstance(value, ListValue) else [value]:
        kind, arguments, span = _chosen(item, "head", "a layer, such as `fc(4096)`", LAYERS, node)
        size, shared = arguments["size"], arguments.get("shared", 0)
        if shared > size:
            raise error("KD0243", span, what="`shared` of `sc`", limit=f"at most {size}, its size,", value=shared)
        if kind == "fc" and apart:
            problem, help = "`fc` cannot come after `sc`, where every vertical has its own units", "Write `sc(…)`."
            raise error("KD0288", span, problem=problem, help=help)
        if shared and apart:
            problem = "an `sc` after another `sc` cannot share units, because none are for all verticals"
            raise error("KD0288", span, problem=problem, help="Leave `shared` out.")
        if kind == "sc":
            groups.append((arguments["by"], span))
            apart = apart or shared < size
        layers.append([kind, size, shared])
    return layers


def _logit_scale(node: ast.Expr, ctx: Context, groups: list[tuple[list[list[int]], Span]]) -> dict[str, Any] | None:
    value = ctx.eval(node, "logit_scale")
    if isinstance(value, ir.Const) and value.value is None:
        return None
    kind, arguments, span = _chosen(
        value, "logit_scale", f"none, or one of {listing(LOGIT_SCALES)}", LOGIT_SCALES, node
    )
    groups.append((arguments["by"], span))
    defaults = {p.name: p.default for p in LOGIT_SCALES[kind].params}
    return {"name": kind, **{k: v for k, v in arguments.items() if k != "by" and v != defaults[k]}}


def _chosen(
    value: Value, name: str, wants: str, table: Mapping[str, Spec], node: ast.Expr
) -> tuple[str, dict[str, Any], Span]:
    if not isinstance(value, Choice):
        raise error("KD0244", value.span or node.span, what=f"`{name}`", wants=wants, found=describe(value))
    check_required(table[value.item.name], value.item.arguments, value.span)
    return value.item.name, value.item.arguments, value.span


def _columns(by: list[list[int]], network: Network, classes: int, span: Span, ctx: Context) -> list[list[int]]:
    """Verticals as columns of the network's logits, whose classes they must partition."""
    ctx.session.budget.elements(classes, span)
    own = network.classes.ids if network.classes is not None else list(range(classes))
    columns = {c: i for i, c in enumerate(own)}
    names = ctx.session.plan.data[network.classes.data].classes if network.classes is not None else None

    def names_of(numbers: list[int]) -> str:
        return listing(names[c] if names else str(c) for c in dict.fromkeys(numbers))

    every = [c for part in by for c in part]
    wrong = {
        "have classes that the network lacks": [c for c in every if c not in columns],
        "lack some of the network's classes": sorted(set(own) - set(every)),
        "have some classes twice": [c for c, count in Counter(every).items() if count > 1],
    }
    for problem, numbers in wrong.items():
        if numbers:
            raise error("KD0287", span, problem=problem, classes=names_of(numbers))
    return [[columns[c] for c in part] for part in by]
