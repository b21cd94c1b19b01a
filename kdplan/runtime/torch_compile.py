"""`torch.compile` for a phase's graphs, with an error that says what to do when it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from kdplan.diagnostics.report import error


def compiled(module: nn.Module, wanted: bool, phase: str) -> Callable[..., Any]:
    """`module` itself, or what `torch.compile` makes of it.

    Raises
    ------
    PlanError
        From the first call: KD0812 if the compiler fails. Going on without it would make measured times lie.
    """
    if not wanted:
        return module
    quick = torch.compile(module)

    def call(**inputs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            return quick(**inputs)
        except (TorchDynamoException, InductorError) as problem:
            reason = " ".join(line.strip() for line in str(problem).splitlines() if line.strip())[:300]
            raise error("KD0812", None, phase=phase, reason=reason) from problem

    return call
