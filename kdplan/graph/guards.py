"""What Python control flow asks of a traced value, and the answers that a graph depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

ASK: dict[str, Callable[[Any], object]] = {"bool": bool, "int": int, "float": float, "len": len, "str": str}
"""How a guard's question is put again."""


@dataclass(frozen=True)
class Guard:
    """One answer that Python control flow got while tracing; the graph is valid where the answer is the same."""

    node: fx.Node
    kind: str
    answer: object


class GuardingTracer(fx.Tracer):
    """A tracer that answers Python's questions of traced values and notes each answer as a guard."""

    def __init__(self) -> None:
        super().__init__()
        self.guards: list[Guard] = []

    def is_state(self, node: fx.Node) -> bool:
        """Whether a value lives in the memory of a parameter or buffer."""
        return node.op == "get_attr"

    def note(self, reason: str) -> None:
        """What a user's code does that no graph holds."""

    def answer(self, node: fx.Node, kind: str, ask: Callable[[Any], Any]) -> Any:
        """The answer to what Python asks of a value, noted as a guard."""
        answer = ask(node.meta["val"])
        if not node.meta.get("fixed"):
            self.guards.append(Guard(node, kind, answer))
        return answer
