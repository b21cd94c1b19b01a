"""The fixed tree in whose order shards are summed, whoever computes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")
Node = tuple[int, int]
"""The shards from one number up to another, which is not among them."""


def halves(node: Node) -> tuple[Node, Node]:
    """The two nodes below a node: the first has as many shards as the largest power of two that leaves some.

    >>> halves((0, 6)), halves((4, 6))
    (((0, 4), (4, 6)), ((4, 5), (5, 6)))
    """
    low, high = node
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    return (low, middle), (middle, high)


def cover(node: Node, shards: range) -> Iterator[Node]:
    """The largest nodes at or below `node` that hold only shards of a block.

    >>> list(cover((0, 8), range(4, 8))), list(cover((0, 6), range(3, 6)))
    ([(4, 8)], [(3, 4), (4, 6)])
    """
    low, high = node
    if shards.start <= low and high <= shards.stop:
        yield node
    elif low < shards.stop and shards.start < high:
        for half in halves(node):
            yield from cover(half, shards)


def tree_sum(node: Node, of: Callable[[int], T | None], add: Callable[[T, T], T], known: Mapping[Node, T]) -> T | None:
    """The sum over a node's shards in the order of the tree, computed from the first shard to the last.

    Parameters
    ----------
    node
    of
        What a shard gives; None adds nothing.
    add
        May change its first argument.
    known
        Sums of some nodes, for which no shard is asked.

    Examples
    --------
    >>> tree_sum((0, 5), str, lambda a, b: f"({a} {b})", {(2, 4): "x"})
    '(((0 1) x) 4)'
    """
    if node in known:
        return known[node]
    if node[1] - node[0] == 1:
        return of(node[0])
    one, other = (tree_sum(half, of, add, known) for half in halves(node))
    return other if one is None else one if other is None else add(one, other)
