"""Tensors of checkpoints and artifacts, in safetensors files; and the seed of random layers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor

from kdplan.runtime.parts import is_part, read_parts
from kdplan.runtime.store.artifact import Folder
from kdplan.runtime.store.atomic import Hashed
from kdplan.runtime.tensor_writer import write_tensors

TENSORS = "state.safetensors"


def plain_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU where needed, none of which shares memory with another."""
    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != value.numel() * value.element_size():
            value = value.clone()
        seen.add(value.untyped_storage().data_ptr())
        plain[name] = value
    return plain


def tensor_file(tensors: Mapping[str, Tensor]) -> Callable[[Path], Hashed]:
    """A function that writes `tensors` to a path, as `store.atomic.Content` wants it."""
    ready = plain_tensors(tensors)
    return lambda path: write_tensors(ready, path)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix/name`."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `prefixed`.

    >>> below("a", {"a/x": 1, "b/x": 2})
    {'x': 1}
    """
    head = f"{prefix}/"
    return {name.removeprefix(head): tensor for name, tensor in tensors.items() if name.startswith(head)}


def read_tensors(folder: Folder, name: str = TENSORS) -> dict[str, Tensor]:
    """The tensors of a file of the store, on the CPU, with those of which processes wrote parts; hashes are checked."""
    tensors = load(folder.read(name))
    if name == TENSORS and any(map(is_part, folder.files)):
        folder.verify()
        tensors = read_parts(folder.path) | tensors
    return tensors


def reseed(seed: int, device: torch.device) -> None:
    """Makes what layers draw on `device`, and from Python's and NumPy's generators, a function of `seed` alone.

    Of torch only generators that are in use are set: `torch.manual_seed` remembers a call for every device that is not.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
