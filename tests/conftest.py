"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before anything imports torch


@pytest.fixture(scope="session")
def kdplan_data() -> Path:
    """The folder with real data sets; tests that need it are skipped without it, for this one reason."""
    root = os.environ.get("KDPLAN_DATA")
    if not root:
        pytest.skip("KDPLAN_DATA is not set: no CIFAR-100 and Fashion-MNIST here")
    return Path(root)
