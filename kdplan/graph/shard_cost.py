"""The memory of a step on shards: of one shard at a time, or of several that wait for each other at batch norms."""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

from kdplan.graph.cost import cost
from kdplan.graph.freeze import parameter_names
from kdplan.ir.plan import Recipe


def shard_bytes(gm: fx.GraphModule, trainable: Collection[str], recipe: Recipe, ranks: int = 1) -> int:
    """The most bytes that a process allocates at one time in a step on shards, as `Cost.peak_bytes` counts them.

    These are activations and gradients of the shards that are computed at once, the sums of gradients that wait, and
    copies of buffers. What ranks send to each other is not among them.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> from kdplan.ir.plan import Item
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(4000, 3))
    >>> b.network("a", nn.Sequential(nn.Linear(3, 50), nn.ReLU(), nn.Linear(50, 1)))
    >>> gm = b.finish({"loss": b.call(torch.mean, b.apply("a", (x,)))}).graph_module
    >>> def bytes_of(norm, ranks):
    ...     recipe = Recipe(Item("sgd"), batch=4000, shards=4, norm=norm)
    ...     return shard_bytes(gm, [n for n, _ in gm.named_parameters()], recipe, ranks)
    >>> [bytes_of(*case) // 1000 for case in (("shard", 1), ("sync", 1), ("sync", 4))]
    [602, 2400, 600]
    """
    names, wanted = parameter_names(gm), set(trainable)
    trained = sum(p.numel() * p.element_size() for p in gm.parameters() if names[id(p)] in wanted)
    state = sum(b.numel() * b.element_size() for b in gm.buffers())
    together = recipe.shards // ranks if recipe.norm == "sync" else 1

    def samples(batch: int) -> int:
        return min(batch, max(-(-batch // recipe.shards) * together, 2))  # batch norm refuses a single sample

    at_once = cost(gm, trainable, samples, copies=together).peak_bytes
    if recipe.norm == "sync":
        return max(at_once, max(together + 1, 3) * trained) + (together + 2) * state
    waiting = recipe.shards.bit_length() - 1  # sums of the tree that are kept while the last shard is computed
    return max(at_once + waiting * trained, (waiting + 2) * trained) + 2 * state
