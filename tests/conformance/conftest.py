"""One thread for all: sums of several are rounded in another order, and a small phase uses one."""

from collections.abc import Iterator

import pytest
import torch

collect_ignore = ["modules"]  # plans read these files; they import each other by their folder


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
