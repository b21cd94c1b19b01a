"""`recipe`: how a phase trains, with inheritance and overrides."""

from __future__ import annotations

from typing import Any

from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.kinds import KINDS
from kdplan.ir.plan import Recipe
from kdplan.passes import settings
from kdplan.passes.load import Declared
from kdplan.passes.session import Context, remember
from kdplan.passes.values import RecipeValue, describe
from kdplan.syntax import ast


def recipe_value(thing: Declared, span: Span, ctx: Context) -> RecipeValue:
    made = remember(ctx.in_module(thing.module), (thing, thing.name), "recipe", span, lambda inner: _recipe(thing, inner))
    return RecipeValue(made.settings, span)


def _recipe(thing: Declared, ctx: Context) -> RecipeValue:
    found: dict[str, tuple[Any, Span]] = {}
    clause = thing.node.clause("=")
    if clause is not None:
        base = ctx.child(exclude=thing.name).eval(clause.exprs[0], "any")
        if not isinstance(base, RecipeValue):
            raise error("KD0244", clause.exprs[0].span, what="this", wants="a recipe", found=describe(base))
        found.update(base.settings)
    own = read_settings(thing.node, ctx)
    _length(own, found)
    return RecipeValue({**found, **own}, thing.node.head_span)


def read_settings(node: ast.Declaration, ctx: Context) -> dict[str, tuple[Any, Span]]:
    """The recipe settings that stand in a body."""
    found: dict[str, tuple[Any, Span]] = {}
    for item in node.items or []:
        if isinstance(item, ast.Setting):
            spec = KINDS["recipe"].setting(item.name)
            if spec is not None:
                found[item.name] = (settings.read(spec, item.value, ctx), item.value.span)
    return found


def _length(own: dict[str, Any], inherited: dict[str, Any]) -> None:
    """`epochs` said anew replaces inherited `steps`, and the other way round."""
    if "epochs" in own:
        inherited.pop("steps", None)
    if "steps" in own:
        inherited.pop("epochs", None)


def finish(value: RecipeValue, overrides: dict[str, tuple[Any, Span]]) -> Recipe:
    """The recipe of a phase.

    Raises
    ------
    PlanError
        KD0802 without an optimizer, KD0803 without a length or with two.
    """
    inherited = dict(value.settings)
    _length(overrides, inherited)
    merged = {**inherited, **overrides}
    if "optimizer" not in merged:
        raise error("KD0851", value.span)
    lengths = [n for n in ("epochs", "steps") if n in merged]
    ends_itself = "schedule" in merged and merged["schedule"][0].name == "plateau"
    if len(lengths) != 1:
        raise error("KD0852", value.span, what="both `epochs` and `steps`" if lengths else "neither `epochs` nor `steps`",
                    help="plateau also needs a longest length" if ends_itself and not lengths else None)  # fmt: skip
    recipe = Recipe(**{name: v for name, (v, _) in merged.items()})
    recipe.span = value.span
    recipe.spans = {name: span for name, (_, span) in merged.items()}
    return recipe
