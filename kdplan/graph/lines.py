"""The user's lines that a graph's nodes come from, for errors that are raised while the graph runs."""

from __future__ import annotations

import sys
import traceback

from torch import fx

from kdplan.diagnostics.boundary import ForeignError, is_users

_GENERATED = "<eval_with_key"


class NodeError(RuntimeError, ForeignError):
    """A node of a graph cannot run; the node's own exception is the cause.

    Attributes
    ----------
    node
        The node.
    line
        The user's file and line that it comes from, or None.
    """

    def __init__(self, node: fx.Node, problem: BaseException) -> None:
        super().__init__(str(problem))
        self.node = node
        self.line: tuple[str, int] | None = node.meta.get("line")


def calling_line(last: str) -> tuple[str, int] | None:
    """The user's file and line that is being traced, looked for up to a frame of the file `last`."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        file = frame.f_code.co_filename
        if is_users(file):
            return file, frame.f_lineno
        if file == last and frame.f_code.co_name == "run":
            return None
    return None


def at_node(problem: BaseException) -> BaseException:
    """For an exception out of a graph's generated code: a `NodeError` of the node that raised it."""
    frames = list(traceback.walk_tb(problem.__traceback__))
    for (frame, _), summary in zip(
        reversed(frames), reversed(traceback.extract_tb(problem.__traceback__)), strict=True
    ):
        graph_module = frame.f_locals.get("self")
        if summary.filename.startswith(_GENERATED) and isinstance(graph_module, fx.GraphModule):
            name = (summary.line or "").split(" ")[0]
            node = next((n for n in graph_module.graph.nodes if n.name == name), None)
            if node is not None:
                error = NodeError(node, problem)
                error.__cause__ = problem
                return error
    return problem
