"""What all tests share."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

os.environ.setdefault("KDPLAN_CHECK_GRAPHS", "1")  # before anything imports kdplan: see kdplan/graph/law.py

from tests.data.folders import REAL, write_folders

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before anything imports torch


# Processes that tests start get signals as from a terminal, also where the tests run in the background of a script.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def kdplan_data() -> Path:
    """The folder with real data sets; tests that need it are skipped without it, for this one reason."""
    root = os.environ.get("KDPLAN_DATA")
    if not root:
        pytest.skip("KDPLAN_DATA is not set: no CIFAR-100 and Fashion-MNIST here")
    return Path(root)


@pytest.fixture(scope="session")
def any_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder for every shipped plan: real data sets where there are any, small stand-ins for the large ones."""
    real = os.environ.get("KDPLAN_DATA")
    return write_folders(tmp_path_factory.mktemp("data"), Path(real) if real else None)


def root_for(plan: Path, request: pytest.FixtureRequest) -> Path | None:
    """The data folder of a shipped plan, None where it reads none; skips where real data are wanted and not there."""
    used = "".join(p.read_text(encoding="utf-8") for p in _with_used(plan))
    if REAL.search(used):
        request.getfixturevalue("kdplan_data")
    elif not re.search('image_folder|open_images|templates\\("|imagenet|coco|cub200|stanford_|fgvc_', used):
        return None
    found: Path = request.getfixturevalue("any_data")
    return found


def _with_used(plan: Path) -> list[Path]:
    text = plan.read_text(encoding="utf-8")
    inner = [(plan.parent / name).resolve() for name in re.findall(r'use "([^"]+\.kd)"', text)]
    return [plan, *(p for one in inner for p in _with_used(one))]
