"""Every block of the cheat sheet is right, and every command exists."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from kdplan.cli.parser import parser
from kdplan.compile import check_text
from kdplan.constructs.table import KINDS
from kdplan.diagnostics.render import render_text
from kdplan.nn.models import create

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "cheatsheet.md").read_text(encoding="utf-8")
HEAD, *BLOCKS = re.findall(r"(?ms)^```\n(.*?)^```$", PAGE)
COMMANDS = re.findall(r"^\| `kdplan ([^`]+)` \|", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page names."""
    here = tmp_path_factory.mktemp("cheatsheet")
    shutil.copy(ROOT / "examples" / "02_own_network_and_loss" / "net.py", here)
    weights = create("digits_net", width=4).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, here / "start.safetensors")
    return here


@pytest.mark.parametrize("block", ["", *BLOCKS], ids=lambda b: b.partition("\n")[0][:40])
def test_block_checks(block: str, folder: Path) -> None:
    """Without an error and without a warning."""
    messages = check_text(HEAD + block, folder=folder)
    assert not messages, render_text(messages, color=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str) -> None:
    assert parser().parse_args(shlex.split(command)).command


def test_page_shows_every_construct_and_fits() -> None:
    shown = {line.split()[0] for line in (HEAD + "".join(BLOCKS)).splitlines() if line.split()}
    constructs = {"stages", "generations", "branches", "verticals", "amalgamate", "ensemble"}
    core = {"use", "param", "def", "data", "recipe", "teacher", "student", "network", "phase", "measure", "export"}
    assert constructs | core <= set(KINDS) and constructs | core <= shown
    assert len([line for line in PAGE.splitlines() if line and line[0] not in "#`"]) <= 125
