"""What constructs ask of the plan around them (`kdplan.constructs.Ask`), answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.plan import ClassSet, Network
from kdplan.ir.user_code import CodeRefused
from kdplan.ir.versions import makers
from kdplan.resolve import setting_values
from kdplan.resolve.context import Context
from kdplan.resolve.expected import no_network
from kdplan.resolve.signals import family_error
from kdplan.resolve.spread import spread
from kdplan.resolve.values import DataValue, Family, NetValue, describe
from kdplan.syntax import ast


@dataclass
class Answers:
    """The answers to a construct's questions, at one point of the axes."""

    node: ast.Declaration
    ctx: Context

    def setting(self, name: str) -> Any:
        """The value of a setting, read by the rule of its type; None where the declaration lacks it."""
        spec = KINDS[self.node.kind].setting(name)
        assert spec is not None, name
        for item in self.node.items or []:
            if isinstance(item, ast.Setting) and item.name == name:
                return setting_values.read(spec, item.value, self.ctx)
        return None

    def is_network(self, node: ast.Expr) -> bool:
        """Whether an expression means a network, and not a model."""
        return isinstance(self.ctx.eval(node, "model"), NetValue)

    def images(self, data: ast.Expr) -> list[int]:
        """Channels, height and width of the images of some data.

        Raises
        ------
        PlanError
            KD0244 for what is no data, KD0514 for images of several sizes.
        """
        value = self.ctx.eval(data, "any")
        if not isinstance(value, DataValue):
            raise error("KD0244", data.span, what="`on`", wants="data", found=describe(value))
        if value.data.shape is None:
            raise error("KD0514", data.span, name=value.data.name)
        return value.data.shape

    def cuts(self, network: ast.Expr) -> list[Cut]:
        """Where a network can be cut, on images of the data after `on`."""
        with self._named():
            return self.ctx.session.cuts(self._network(network), self._images())

    def layers(self, network: ast.Expr) -> list[Layer]:
        """The values of a network through which everything passes, likewise."""
        with self._named():
            return self.ctx.session.layers(self._network(network), self._images())

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Inside, code that may not run is a warning about this construct."""
        try:
            yield
        except CodeRefused as refused:
            what = f"`{self.node.name}`, with all that reads it,"
            raise refused.about(what, self.node.head_span) from None

    def each(self, networks: ast.Expr) -> list[ast.Expr]:
        """A name in scope for each network that an expression means.

        Raises
        ------
        PlanError
            KD0401 for a family without an index, KD0250 for what is no network.
        """
        names: list[ast.Expr] = []
        for value in spread([networks], self.ctx, "network"):
            if isinstance(value, Family):
                raise family_error(value)
            if not isinstance(value, NetValue) or value.path:
                raise no_network(value, networks.span, self.ctx.module)
            word = f"from {len(self.ctx.names)}"  # no word of the language, so that it hides none
            self.ctx.names[word] = value
            names.append(ast.Name(networks.span, word))
        return names

    def name(self, network: ast.Expr) -> str:
        """The network's name in the core plan."""
        return self._value(network).instance.name

    def classes(self, network: ast.Expr) -> ClassSet | None:
        """The classes of a network's logits, where its declaration says them."""
        return self._network(network).classes

    def class_names(self, classes: ClassSet) -> list[str]:
        """The names that the data gives these classes."""
        names = self.ctx.session.plan.data[classes.data].classes
        return [names[i] for i in classes.ids]

    def trained_on(self, network: ast.Expr) -> list[int] | None:
        """Channels, height and width of the images that trained a network; None for none and for several sizes."""
        plan = self.ctx.session.plan
        value = self._value(network)
        version = value.version or value.instance.as_declared
        phases = [m for m in makers(plan, version)] if version is not None else []
        return plan.data[plan.phases[phases[0]].streams[0].data].shape if phases else None

    def warn(self, code: str, span: Span, **values: Any) -> None:
        """Report a warning."""
        self.ctx.session.reporter.report(code, span, **values)

    def _value(self, network: ast.Expr) -> NetValue:
        value = self.ctx.eval(network, "network")
        if isinstance(value, Family):
            raise family_error(value)
        if not isinstance(value, NetValue) or value.path:
            raise no_network(value, network.span, self.ctx.module)
        return value

    def _network(self, network: ast.Expr) -> Network:
        return self._value(network).instance.network

    def _images(self) -> list[int]:
        on = self.node.clause("on")
        assert on is not None
        return self.images(on.exprs[0])
