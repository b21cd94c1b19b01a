"""`torch.compile` for a phase's graphs, with an error where it fails."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import error


def compiled(module: nn.Module, wanted: bool, phase: str) -> Callable[..., dict[str, Tensor]]:
    """`module` itself, or compiled.

    Raises
    ------
    PlanError
        From the first call: KD0812 if the compiler fails. Training uncompiled would falsify measured times.
    """
    if not wanted:
        return module
    quick = torch.compile(module)

    def call(**inputs: Tensor) -> dict[str, Tensor]:
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            outputs: dict[str, Tensor] = quick(**inputs)
            return outputs
        except (TorchDynamoException, InductorError) as problem:
            reason = " ".join(line.strip() for line in str(problem).splitlines() if line.strip())[:300]
            raise error("KD0812", None, phase=phase, reason=reason) from problem

    return call
