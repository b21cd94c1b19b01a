"""`perturbed(…)`: a network whose weights lie at a distance from those that a phase left."""

from __future__ import annotations

from kdplan.ir.origins import Perturbed
from kdplan.ir.spec import Spec
from kdplan.resolve.context import Context
from kdplan.resolve.derive.changed import changed
from kdplan.resolve.values import NetValue
from kdplan.syntax import ast


def perturbed(spec: Spec, node: ast.Call, ctx: Context) -> NetValue:
    """The network that the call means; errors as in `changed`."""
    return changed(spec, node, ctx, lambda version, given: Perturbed([version], given["distance"], int(given["seed"])))
