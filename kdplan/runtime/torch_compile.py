"""`torch.compile` for a phase's graphs: for the full batch, with an error where it fails.

Each other size of a batch would be compiled anew, which takes longer than many epochs of the short batches that end
them. So these run as they are: which batches they are follows from the plan and the data, also after a resume. Padding
them to the full size would not be exact, as batch norm counts every sample.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdplan.diagnostics.report import error
from kdplan.ir.plan import Recipe
from kdplan.nn.host import leave_out_of_compiled_code
from kdplan.runtime.options import cache_folder

CACHE = "TORCHINDUCTOR_CACHE_DIR"


def full_sizes(whole: Sequence[int], recipe: Recipe) -> dict[str, int]:
    """The samples of each stream in a batch that is compiled, by the name of the stream's indices.

    Parameters
    ----------
    whole
        Samples of each stream in a full step.
    recipe
        Cuts a step into parts and shards.

    Examples
    --------
    >>> from kdplan.ir.plan import Item
    >>> full_sizes([128, 64], Recipe(Item("sgd"), batch=[32, 16], accumulate=4))
    {'indices_0': 32, 'indices_1': 16}
    >>> full_sizes([50], Recipe(Item("sgd"), batch=128, shards=4))
    {'indices_0': 13}
    """
    first = min(recipe.batch_of(), whole[0])
    count = -(-whole[0] // first)
    parts = [first, *(-(-n // count) for n in whole[1:])]
    shards = min(recipe.shards, first)
    return {f"indices_{stream}": -(-n // shards) for stream, n in enumerate(parts)}


class Compiler:
    """Compiles the graphs of one phase, where its recipe says so.

    Parameters
    ----------
    recipe : Recipe
    phase : str
        Its name, for errors.
    whole : sequence of int
        Samples of each stream in a full step.
    shards : int, optional
        Parts in which a batch is computed, where they are not the recipe's.
    """

    def __init__(self, recipe: Recipe, phase: str, whole: Sequence[int], shards: int | None = None) -> None:
        self.wanted, self.phase = recipe.compile is True, phase
        self.sizes = full_sizes(whole, recipe if shards is None else replace(recipe, shards=shards))
        self.full = False
        if self.wanted:
            keep_compiled()
            leave_out_of_compiled_code()

    def see(self, batch: Mapping[str, Tensor]) -> None:
        """Note whether the next calls are on a batch of the full size."""
        self.full = self.wanted and all(len(batch[name]) == size for name, size in self.sizes.items())

    def of(self, module: nn.Module) -> Callable[..., dict[str, Tensor]]:
        """`module` itself, or compiled for batches of the full size.

        Raises
        ------
        PlanError
            From the first call: KD0812 if the compiler fails. Training uncompiled would falsify measured times.
        """
        if not self.wanted:
            return module
        quick = torch.compile(module, dynamic=False)

        def call(**inputs: Tensor) -> dict[str, Tensor]:
            from torch._dynamo.exc import TorchDynamoException
            from torch._inductor.exc import InductorError

            try:
                outputs: dict[str, Tensor] = quick(**inputs) if self.full else module(**inputs)
                return outputs
            except (TorchDynamoException, InductorError) as problem:
                reason = " ".join(line.strip() for line in str(problem).splitlines() if line.strip())[:300]
                raise error("KD0812", None, phase=self.phase, reason=reason) from problem

        return call


def keep_compiled() -> None:
    """Let compiled code outlive the temporary folder: in the user's cache, unless the environment names a folder.

    Not in the store: compiled code is run as it is found, and a store may be shared.
    """
    if CACHE in os.environ:
        return
    folder = cache_folder() / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written: torch's own choice stays
    os.environ[CACHE] = str(folder)
