"""Seeds of networks and phases, as their declarations and the file give them."""

from __future__ import annotations

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.passes.load import Declared, ambiguous
from kdplan.resolve import setting_values
from kdplan.resolve.context import Context
from kdplan.resolve.values import describe
from kdplan.syntax import ast


def seed_setting(node: ast.Declaration, ctx: Context, outer: int | None = None) -> int:
    """`seed`: the declaration's own, else the enclosing one's, else the file's `param seed`, else 0."""
    for item in node.items or []:
        if isinstance(item, ast.Setting) and item.name == "seed":
            spec = KINDS["phase"].setting("seed")
            assert spec is not None
            names = dict(ctx.names)
            if outer is not None or not _has_seed(ctx):
                names.setdefault("seed", ir.Const(outer or 0, span=item.value.span))
            return int(setting_values.read(spec, item.value, ctx.child(names=names)))
    return outer if outer is not None else file_seed(node, ctx)


def _has_seed(ctx: Context) -> bool:
    thing = ctx.module.scope.get("seed")
    return isinstance(thing, Declared) and thing.kind == "param"


def file_seed(node: ast.Declaration, ctx: Context) -> int:
    """`param seed` of the file, or 0. KD0278 where two used files have one, and this file has none."""
    if not _has_seed(ctx):
        if len(ctx.module.param("seed")) > 1:
            raise ambiguous("seed", ctx.module, node.head_span, "the seed of this declaration")
        return 0
    thing = ctx.module.scope["seed"]
    assert isinstance(thing, Declared)
    value = ctx.child(names={}, exclude=None).eval(ast.Name(thing.node.span, "seed"), "any")
    if not (isinstance(value, ir.Const) and isinstance(value.value, int)):
        raise error("KD0244", thing.node.span, what="`seed`", wants="a whole number", found=describe(value))
    return value.value


def says_seed(node: ast.Declaration) -> bool:
    """Whether a declaration has a `seed` of its own."""
    return any(isinstance(i, ast.Setting) and i.name == "seed" for i in node.items or [])
