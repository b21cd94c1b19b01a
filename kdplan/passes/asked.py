"""What constructs ask of the plan around them (`kdplan.lower.Ask`), answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kdplan.diagnostics.report import error
from kdplan.ir.cuts import Cut
from kdplan.ir.kinds import KINDS
from kdplan.passes import settings
from kdplan.passes.session import Context
from kdplan.passes.values import DataValue, NetValue, describe
from kdplan.syntax import ast


@dataclass
class Asked:
    """The answers to a construct's questions, at one point of the axes."""

    node: ast.Declaration
    ctx: Context

    def setting(self, name: str) -> Any:
        spec = KINDS[self.node.kind].setting(name)
        assert spec is not None, name
        for item in self.node.items or []:
            if isinstance(item, ast.Setting) and item.name == name:
                return settings.read(spec, item.value, self.ctx)
        return None

    def is_network(self, node: ast.Expr) -> bool:
        return isinstance(self.ctx.eval(node, "model"), NetValue)

    def images(self, data: ast.Expr) -> list[int]:
        found = self.ctx.eval(data, "any")
        if not isinstance(found, DataValue):
            raise error("KD0244", data.span, what="what stands after `on`", wants="data", found=describe(found))
        if found.data.shape is None:
            raise error("KD0514", data.span, name=found.data.name)
        return found.data.shape

    def cuts(self, network: ast.Expr) -> list[Cut]:
        found = self.ctx.eval(network, "network")
        if not isinstance(found, NetValue) or found.path:
            raise error("KD0250", network.span, what=describe(found))
        on = self.node.clause("on")
        assert on is not None
        return self.ctx.session.cuts(found.instance.network, self.images(on.exprs[0]))
