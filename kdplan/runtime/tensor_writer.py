"""Safetensors files that are hashed while they are written.

The bytes are those of `safetensors.torch.save_file`, which gives no hash: its files would be read once more for one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from kdplan.runtime.store.atomic import Hashed

_NAMES = {
    torch.uint64: "U64", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64", torch.float32: "F32",
    torch.uint32: "U32", torch.int32: "I32", torch.bfloat16: "BF16", torch.float16: "F16", torch.uint16: "U16",
    torch.int16: "I16", torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}  # fmt: skip
"""The format's names of types, in the order in which their tensors stand in a file."""
_RANKS = {dtype: rank for rank, dtype in enumerate(_NAMES)}
_PIECE = 1 << 20
"""Bytes that are hashed and then written: the processor's cache still holds them."""


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> Hashed:
    """Writes a safetensors file, and gives its SHA-256.

    Parameters
    ----------
    tensors
        Contiguous tensors on the CPU, by name.
    path
        A file of that name is replaced.

    Raises
    ------
    OSError
        If the system refuses.

    Examples
    --------
    >>> import tempfile; from safetensors.torch import load_file
    >>> path = Path(tempfile.mkdtemp()) / "w.safetensors"
    >>> len(write_tensors({"w": torch.ones(2)}, path).sha256), load_file(path)
    (64, {'w': tensor([1., 1.])})
    """
    assert sys.byteorder == "little", "the format's numbers are little-endian"
    order = sorted(tensors, key=lambda name: (_RANKS[tensors[name].dtype], name))
    digest = hashlib.sha256()
    with path.open("wb", buffering=_PIECE) as file:

        def put(content: memoryview | bytes) -> None:
            for start in range(0, len(content), _PIECE):
                piece = content[start : start + _PIECE]
                digest.update(piece)
                file.write(piece)

        put(_head(tensors, order))
        for name in order:
            put(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return Hashed(digest.hexdigest())


def _head(tensors: Mapping[str, Tensor], order: list[str]) -> bytes:
    """What stands before the numbers: the length of a JSON object, padded to 8, and the object."""
    entries, end = {}, 0
    for name in order:
        tensor = tensors[name]
        assert tensor.is_contiguous() and tensor.device.type == "cpu", name
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
