"""Functions of `torch.compile` in a user's network: neither traced values nor fake tensors can go into them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kdplan.graph.compiler import imported


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside, compiled functions run as they were written.

    >>> def never(graph, inputs): raise ValueError("compiled")
    >>> double = torch.compile(lambda x: x * 2, backend=never)
    >>> with uncompiled():
    ...     double(torch.ones(2))
    tensor([2., 2.])
    """
    compiler = imported()  # nothing is compiled without it
    if compiler is None:
        yield
        return
    with compiler.config.patch(error_on_nested_fx_trace=False), torch.compiler.set_stance("force_eager"):
        yield
