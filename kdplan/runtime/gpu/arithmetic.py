"""The arithmetic of a step: which numbers matrix products and convolutions take."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, fx, nn

from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Precision, Recipe

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions in which products are computed in half of the bits."""


@contextmanager
def tf32(wanted: bool, device: torch.device) -> Iterator[None]:
    """Within it, products of float32 on a GPU take 10 bits of mantissa, or all 23.

    By itself torch rounds in convolutions and not in matrix products. On other devices this does nothing.

    Examples
    --------
    >>> with tf32(True, torch.device("cpu")):
    ...     torch.get_float32_matmul_precision()
    'highest'
    """
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _set_tf32("high" if wanted else "highest", wanted)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(products: str, convolutions: bool) -> None:
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


class Arithmetic:
    """The arithmetic of the two graphs of a phase.

    Parameters
    ----------
    recipe : Recipe
        Its `precision`, and `frozen_precision` for what is frozen.
    device : torch.device

    Examples
    --------
    >>> from kdplan.ir.plan import Item
    >>> a = Arithmetic(Recipe(Item("sgd"), precision="bf16"), torch.device("cpu"))
    >>> with a.trained():
    ...     nn.Linear(2, 2)(torch.ones(1, 2)).dtype
    torch.bfloat16
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.device, self.precision = device, recipe.precision
        self.frozen_precision = frozen_precision(recipe)

    def trained(self) -> AbstractContextManager[object]:
        """Of the trainable graph. Its products have `tf32` as the phase has."""
        return self._autocast(self.precision)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Of the frozen graph; nothing in it gets a gradient."""
        with torch.no_grad(), self._autocast(self.frozen_precision), self._products():
            yield

    def crossing(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the frozen graph gives, as the trainable one reads it: float32 where their precisions differ."""
        if self.frozen_precision == self.precision:
            return values
        return {n: t.float() if t.dtype in HALF.values() else t for n, t in values.items()}

    def hold_in_half(self, graph: PhaseGraph) -> int:
        """Round frozen weights once, as `hold_in_half` does: those of no network that the phase trains or averages.

        Where the first step is compared with a plain form that has one precision, both graphs must have that one.
        """
        if not isinstance(graph.frozen, fx.GraphModule):
            return 0
        if graph.plain is not None and self.frozen_precision != self.precision:
            return 0
        kept = [*graph.networks, *(copy.module for copy in graph.ema_copies)]
        others = [*graph.state().values(), *(p for module in kept for p in module.parameters())]
        return hold_in_half(graph.frozen, self.frozen_precision, others)

    def _autocast(self, precision: Precision) -> AbstractContextManager[object]:
        half = HALF.get(precision)
        return torch.autocast(self.device.type, dtype=half) if half is not None else nullcontext()

    def _products(self) -> AbstractContextManager[object]:
        if self.frozen_precision == self.precision:
            return nullcontext()
        return tf32(self.frozen_precision == "tf32", self.device)


def frozen_precision(recipe: Recipe) -> Precision:
    """The precision of frozen networks.

    >>> from kdplan.ir.plan import Item
    >>> frozen_precision(Recipe(Item("sgd"), precision="fp16"))
    'fp16'
    """
    return recipe.frozen_precision or recipe.precision


_PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Modules whose weights autocast rounds whenever they are called."""


def hold_in_half(frozen: fx.GraphModule, precision: Precision, others: Iterable[Tensor]) -> int:
    """Round the weights of frozen products once; autocast would do so in every step, to the same numbers.

    Parameters
    ----------
    frozen
        The frozen graph. Only modules of torch's own classes that it calls are touched: whoever calls a network whole,
        or reads a weight, may do other things with it.
    precision
        Of frozen networks.
    others
        Tensors that must stay as they are: trained ones, and those that the phase averages or saves.

    Returns
    -------
    int
        How many tensors were rounded.

    Examples
    --------
    >>> net = fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    >>> hold_in_half(net, "bf16", ()), net.get_submodule("0").weight.dtype, net.get_submodule("1").weight.dtype
    (2, torch.bfloat16, torch.float32)
    """
    half = HALF.get(precision)
    if half is None:
        return 0
    called = {str(n.target) for n in frozen.graph.nodes if n.op == "call_module"}
    modules = list({id(m): m for m in map(frozen.get_submodule, called) if type(m) in _PRODUCTS}.values())
    weights = [p for m in modules for p in m.parameters(recurse=False)]
    read = [operator.attrgetter(str(n.target))(frozen) for n in frozen.graph.nodes if n.op == "get_attr"]
    others_of = {id(t) for t in (*others, *read)}
    owners = Counter(id(p) for m in frozen.modules() for p in m.parameters(recurse=False))
    mine = [p for p in weights if p.dtype == torch.float32 and id(p) not in others_of and owners[id(p)] == 1]
    for p in mine:
        p.data = p.data.to(half)
    return len(mine)
