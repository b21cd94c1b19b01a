"""Files of tensors have the bytes that the library writes, and the hash that is given for them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from kdplan.runtime.store import manifest
from kdplan.runtime.store.atomic import Hashed
from kdplan.runtime.tensor_writer import _NAMES, write_tensors


def test_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    """All types, no and many dimensions, no numbers, names of all kinds, and more than one piece."""
    tensors = {f"{name}/{i}": torch.arange(6).reshape(2, 3).to(dtype) for i, (dtype, name) in enumerate(_NAMES.items())}
    tensors |= {'é"\n\x01': torch.rand(()), "none": torch.zeros(0, 3), "a/b": torch.rand(2, 3, 4, 5)}
    tensors |= {"long": torch.rand(700_001), "lo": torch.randint(99, (300_003,))}
    for chosen in (tensors, {}):
        known = write_tensors(chosen, tmp_path / "w")
        content = (tmp_path / "w").read_bytes()
        assert content == save(chosen)
        assert known == Hashed(hashlib.sha256(content).hexdigest())


def test_what_was_written_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its hash is that of memory, so that a faulty write is noticed by whoever reads."""
    monkeypatch.setattr(manifest, "digest_file", lambda path: pytest.fail(f"{path} is read"))
    weights = {"w": torch.rand(1000)}
    manifest.build(tmp_path / "new", {"w.safetensors": lambda path: write_tensors(weights, path)})
    monkeypatch.undo()
    known = manifest.read(tmp_path / "new", "it")
    manifest.check(tmp_path / "new", "w.safetensors", known, "it")


REFUSED = """
import errno, resource, signal, sys
from pathlib import Path
import torch
from kdplan.runtime.store import manifest
from kdplan.runtime.store.errors import StoreUnwritable
from kdplan.runtime.tensor_writer import write_tensors

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
try:
    manifest.build(Path(sys.argv[1]), {"w": lambda path: write_tensors({"w": torch.zeros(2_000_000)}, path)})
except StoreUnwritable as problem:
    assert isinstance(problem.__cause__, OSError) and problem.__cause__.errno == errno.EFBIG
    print("refused")
"""


def test_a_refusal_in_the_middle_is_a_diagnostic(tmp_path: Path) -> None:
    """The file system's own error, from a file that may not grow."""
    command = [sys.executable, "-c", REFUSED, str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "refused\n", done.stderr
