"""`recipe`: how a phase trains, with inheritance and overrides."""

from __future__ import annotations

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import Gather, error
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Recipe
from kdplan.passes.load import Declared
from kdplan.resolve import setting_values
from kdplan.resolve.context import Context, remember
from kdplan.resolve.values import RecipeValue, Settings, describe
from kdplan.syntax import ast


def recipe_value(thing: Declared, span: Span, ctx: Context) -> RecipeValue:
    """The settings that a `recipe` declares, with those of the recipe that it is based on."""
    value = remember(
        ctx.in_module(thing.module), (thing, thing.name), "recipe", span, lambda inner: _recipe(thing, inner)
    )
    return RecipeValue(value.settings, span, thing.name, thing.node.head_span)


def _recipe(thing: Declared, ctx: Context) -> RecipeValue:
    settings: Settings = {}
    clause = thing.node.clause("=")
    if clause is not None:
        base = ctx.child(exclude=thing.name).eval(clause.exprs[0], "any")
        if not isinstance(base, RecipeValue):
            raise error("KD0249", clause.exprs[0].span, wants="a recipe", found=describe(base))
        settings.update(base.settings)
    own = read_settings(thing.node, ctx)
    _length(own, settings)
    return RecipeValue({**settings, **own}, thing.node.head_span)


def read_settings(node: ast.Declaration, ctx: Context) -> Settings:
    """The recipe settings that stand in a body."""
    settings: Settings = {}
    gather = Gather()
    for item in node.items or []:
        if isinstance(item, ast.Setting):
            spec = KINDS["recipe"].setting(item.name)
            if spec is not None:
                with gather:
                    settings[item.name] = (setting_values.read(spec, item.value, ctx), item.value.span)
    gather.raise_if_failed()
    if "channels_last" in settings:
        last, span = settings.pop("channels_last")
        if "layout" in settings:
            raise error("KD1000", span)
        settings["layout"] = ("channels_last" if last else "contiguous", span)
    return settings


def _length(own: Settings, inherited: Settings) -> None:
    """`epochs` said anew replaces inherited `steps`, and the other way round."""
    if "epochs" in own:
        inherited.pop("steps", None)
    if "steps" in own:
        inherited.pop("epochs", None)


def finish(value: RecipeValue, overrides: Settings) -> Recipe:
    """The recipe of a phase.

    Raises
    ------
    PlanError
        KD0851 without an optimizer, KD0852 without a length or with two, KD0243 for a snapshot after the last epoch.
    """
    inherited = dict(value.settings)
    _length(overrides, inherited)
    merged = {**inherited, **overrides}
    if "optimizer" not in merged:
        raise error("KD0851", value.declared, name=value.name)
    lengths = [n for n in ("epochs", "steps") if n in merged]
    ends_itself = "schedule" in merged and merged["schedule"][0].name == "plateau"
    if len(lengths) != 1:
        what = "both `epochs` and `steps`" if lengths else "neither `epochs` nor `steps`"
        help = (
            "Delete one of them."
            if lengths
            else "Set the greatest length, such as `epochs = 200`."
            if ends_itself
            else None
        )
        raise error("KD0852", value.declared, name=value.name, what=what, help=help)
    last = merged["epochs"][0] if "epochs" in merged else None
    kept, span = merged.get("keep_epochs", ([], value.span))
    for epoch in kept:
        if epoch < 1 or (last is not None and epoch > last):
            limit = "at least 1" if epoch < 1 else f"at most {last}, which is `epochs`"
            raise error("KD0243", span, what="an epoch of `keep_epochs`", limit=limit, value=epoch)
    recipe = Recipe(**{name: v for name, (v, _) in merged.items()})
    recipe.span = value.span
    recipe.spans = {name: span for name, (_, span) in merged.items()}
    return recipe
