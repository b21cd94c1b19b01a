"""Large checkpoints of phases in pieces: each process writes its own, as safetensors of `torch.distributed.checkpoint`.

The files say where in a tensor their pieces are, so another number of processes, or one, reads them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from warnings import catch_warnings

import torch
from torch import Tensor

LARGE = 4_000_000_000
"""Bytes of what is in pieces above which processes write it themselves; `KDPLAN_PARTS_ABOVE` is another number."""
_HEAD = "shard-"


def is_large(tensors: Mapping[str, Tensor]) -> bool:
    """Whether tensors, counted whole, are too large to be gathered for a checkpoint."""
    limit = os.environ.get("KDPLAN_PARTS_ABOVE", "")
    return sum(t.numel() * t.element_size() for t in tensors.values()) > (int(limit) if limit.isdigit() else LARGE)


def is_part(name: str) -> bool:
    """Whether a checkpoint's file has pieces.

    >>> is_part("shard-00001-model-00001-of-00001.safetensors"), is_part("state.safetensors")
    (True, False)
    """
    return name.startswith(_HEAD)


def is_whole(tensor: Tensor) -> bool:
    """Whether a process has all of a tensor."""
    from torch.distributed.tensor import DTensor

    return not isinstance(tensor, DTensor)


def write_parts(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write this rank's pieces of tensors into a folder that all ranks see; all of them call it.

    Raises
    ------
    OSError
        Where one of them cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        save(dict(tensors), storage_writer=writer)
    except CheckpointException as problem:
        causes = [cause for cause, _ in problem.failures.values()]
        raise next((c for c in causes if isinstance(c, OSError)), OSError(str(problem))) from problem


def read_parts(folder: Path) -> dict[str, Tensor]:
    """The whole tensors of all files in a folder, on the CPU."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(about.size, dtype=about.properties.dtype) for name, about in known.items()}  # type: ignore[union-attr]
    with catch_warnings(action="ignore", category=UserWarning):  # that this is one process
        load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors


def linked(file: Path) -> Callable[[Path], object]:
    """A function that gives a file a second name; a copy, where the file system has no such names."""

    def put(path: Path) -> None:
        with suppress(OSError):
            os.link(file, path)
            return
        shutil.copyfile(file, path)

    return put
