"""The same start for all: one thread, as a small phase uses, and distributions as they are before torch.compile."""

from collections.abc import Iterator

import pytest
import torch

collect_ignore = ["modules"]  # plans read these files; they import each other by their folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums of several threads are rounded in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _validating() -> Iterator[None]:
    """torch.compile, once used in a process, ends the checks that keep a module whole."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)
