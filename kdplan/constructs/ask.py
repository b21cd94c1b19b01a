"""Constructs: one file each, from a declaration to declarations of the core.

What a construct lowers to is text of the language (as a tree), which is then resolved as if somebody had written it.
Inside it `N@inner` means a phase of the same construct.
"""

from __future__ import annotations

from typing import Any, Protocol

from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.plan import ClassSet
from kdplan.syntax import ast


class Ask(Protocol):
    """What a construct may ask of the plan around it; the answers depend on the axes that are being read."""

    def setting(self, name: str) -> Any:
        """The value of a setting of the construct, or None where it is not given."""

    def is_network(self, node: ast.Expr) -> bool:
        """Whether an expression means a network, and not a model."""

    def images(self, data: ast.Expr) -> list[int]:
        """Channels, height and width of the images of the data that an expression means."""

    def cuts(self, network: ast.Expr) -> list[Cut]:
        """Where the network that an expression means can be cut, from its input on."""

    def layers(self, network: ast.Expr) -> list[Layer]:
        """The values of a network through which everything passes, from its input on."""

    def each(self, networks: ast.Expr) -> list[ast.Expr]:
        """An expression for each of the networks that one means."""

    def name(self, network: ast.Expr) -> str:
        """What a network is called."""

    def classes(self, network: ast.Expr) -> ClassSet | None:
        """What a network's scores are over, where its declaration says it."""

    def class_names(self, classes: ClassSet) -> list[str]:
        """What the data calls these classes."""

    def trained_on(self, network: ast.Expr) -> list[int] | None:
        """Channels, height and width of the images that a network was trained on, if it was and all are alike."""

    def warn(self, code: str, span: Span, **values: Any) -> None:
        """Report a warning."""
