"""The reference is what the specs give, and every example in it is right."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from kdplan.cli import main
from kdplan.compile import check_text, compile_source, inspect
from kdplan.constructs.table import KINDS
from kdplan.diagnostics.render import render_text
from kdplan.diagnostics.report import PlanError, table
from kdplan.diagnostics.span import Source
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS, SIGNALS
from kdplan.nn.models import create
from kdplan.passes.keys import graph_key
from kdplan.resolve.choices import choices
from kdplan.view.examples import Example, examples, frame, own_settings
from kdplan.view.reference import SECTIONS, fill
from tests.data.boxes import write_boxes
from tests.data.faces import write_faces

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "grammar" / "README.md"
ELSEWHERE = {"cifar10", "cifar100", "mnist", "fashion_mnist", "svhn", "imagenet", "open_images"}
ELSEWHERE |= {"cub200", "stanford_dogs", "fgvc_aircraft", "stanford_cars"}
"""Sources whose files are not made here: their absence must be the only complaint."""

inspected: set[str] = set()
"""Graphs that were built already: most examples share them."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the examples speak of."""
    here = tmp_path_factory.mktemp("examples")
    shutil.copytree(ROOT / "plans" / "common", here / "common")
    net = create("digits_net", width=4)
    save_file({n: t.contiguous() for n, t in net.state_dict().items()}, here / "start.safetensors")
    save_file({f"backbone.{n}": t.contiguous() for n, t in net.state_dict().items()}, here / "backbone.safetensors")
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, here / "averaged.pth")
    x, y = np.zeros((100, 1, 8, 8), np.uint8), np.arange(100) % 10
    np.savez(here / "numbers.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    x, y = np.zeros((1000, 1, 8, 8), np.uint8), np.arange(1000) % 10
    np.savez(here / "unsplit.npz", x=x, y=y)
    (here / "numbers.csv").write_text("".join(f"{i},{i // 2 if i > 1 else ''}\n" for i in range(10)))
    (here / "kinds.csv").write_text("".join(f"{i},{'even' if i % 2 == 0 else 'odd'}\n" for i in range(10)))
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (here / "pictures" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(here / "pictures" / split / name / "0.png")
    write_faces(here / "faces", splits=10)
    write_boxes(here / "coco")
    shutil.copy(ROOT / "examples" / "02_own_network_and_loss" / "net.py", here)
    (here / "my_data.py").write_text(
        "import numpy as np\n\n\ndef squares():\n"
        "    x, y = np.zeros((20, 1, 8, 8), np.float32), np.arange(20) % 10\n"
        '    return {"train": (x, y), "test": (x, y)}\n'
    )
    return here


@pytest.mark.parametrize("example", examples(), ids=lambda e: e.of.replace(" ", "-"))
def test_example_checks(example: Example, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an error and without a warning."""
    monkeypatch.chdir(folder)
    root = None if example.of.partition(" ")[2] in ELSEWHERE else folder
    try:
        compiled = compile_source(Source("example.kd", example.plan), folder, root)
        new = [n for n, p in compiled.plan.phases.items() if graph_key(compiled.plan, p) not in inspected]
        inspect(compiled, new)
    except PlanError as problem:
        codes = {d.code for d in problem.diagnostics}
        assert root is None and codes == {"KD0711"}, f"{example.plan}\n{render_text(problem.diagnostics, color=False)}"
        return
    inspected.update(graph_key(compiled.plan, compiled.plan.phases[n]) for n in new)
    assert not compiled.warnings, f"{example.plan}\n{render_text(compiled.warnings, color=False)}"


def test_everything_has_an_example() -> None:
    named = {e.of for e in examples() if e.shown}
    wanted = {f"kind {k}" for k in KINDS} | {f"function {f}" for f in (*FUNCTIONS, *PLAN_FUNCTIONS)}
    wanted |= {f"setting {k.name}.{s.name}" for k in KINDS.values() for s in own_settings(k)}
    wanted |= {f"signal {s}" for s in SIGNALS}
    for of in ("optimizer", "schedule", "model", "metric", "source", "transform", "split", "protocol", "partition"):
        wanted |= {f"{of} {name}" for name in choices()[of]}
    assert wanted - named == set()


def test_reference_is_what_the_specs_give() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- made: (\w+) -->", text)) == set(SECTIONS)
    assert fill(text) == text, "run `python -m kdplan.view.reference grammar/README.md`"


def test_reference_lists_every_code() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert [c for c in table() if f"`{c}`" not in text] == []


RULES = REFERENCE.read_text(encoding="utf-8").partition("## The examples' plan")[0]
RULE_BLOCKS = re.findall(r"(?ms)^####? ([^\n]+)\n\n```\n(.*?)^```$", RULES)


@pytest.mark.parametrize(("title", "block"), RULE_BLOCKS, ids=[title for title, _ in RULE_BLOCKS])
def test_block_of_the_rules_continues_the_frame(title: str, block: str, folder: Path) -> None:
    declared = re.findall(r"^(?:phase|student|teacher|recipe|data) (\w+)", block, re.MULTILINE)
    messages = check_text(f"{frame(*declared)}\n{block}", folder=folder)
    assert not messages, render_text(messages, color=False)


def test_every_rule_is_an_example_and_a_few_lines() -> None:
    rules = re.findall(r"(?ms)^### (\d+)\. [^\n]+\n\n```\n.*?^```\n\n(.*?)\n\n", RULES)
    assert [int(number) for number, _ in rules] == list(range(1, 16))
    assert [number for number, text in rules if len(text.splitlines()) > 8] == []


@pytest.mark.parametrize("page", ["README.md", "grammar/README.md", "docs/cheatsheet.md", "docs/style.md"])
def test_paragraphs_are_short(page: str) -> None:
    """At most 120 words, outside of code and tables."""
    text = re.sub(r"(?ms)^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"))
    paragraphs = [p for p in re.split(r"\n\s*\n|\n(?=[-*] |\d+\. )", text) if not p.lstrip().startswith(("|", "<"))]
    assert [p for p in paragraphs if len(p.split()) > 120] == []


@pytest.mark.parametrize("page", ["README.md", "grammar/README.md", "docs/architecture.md", "docs/cheatsheet.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = [to for to in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in to]
    assert [to for to in links if not ((ROOT / page).parent / to).exists()] == []


README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", README)
QUICKSTART, *BLOCKS = [text for language, text in FENCED if not language]
COMMANDS = re.findall(r"^\| `kdplan ([^`]+)` \|", README, re.MULTILINE)
TRAINING = ("run", "export", "work")
"""Verbs whose commands need training: the slow test runs those."""


def test_readme_shows_the_quickstart_as_it_is() -> None:
    assert (ROOT / "plans" / "quickstart.kd").read_text(encoding="utf-8") == QUICKSTART


def test_readme_blocks_continue_the_quickstart() -> None:
    plan = QUICKSTART.replace("seed in 0..2", "seed in [0]") + "".join(BLOCKS)
    messages = check_text(plan, folder=ROOT / "examples" / "02_own_network_and_loss")
    assert len(BLOCKS) > 6 and not messages, render_text(messages, color=False)


def test_readme_begins_with_two_commands() -> None:
    """What the plan is, its picture, and two commands that need nothing done before."""
    top = README.partition("## Your own plan")[0]
    commands = [text for language, text in FENCED if language == "bash"]
    assert len(commands) == 1 and commands[0] in top and "docs/quickstart.svg" in top.partition("```")[0]
    install, run = zip(*(line.rpartition(" && .venv/bin/")[::2] for line in commands[0].splitlines()), strict=True)
    assert run == ("kdplan run plans/quickstart.kd", "pytest -n 2")
    assert all(line.startswith("python -m venv .venv && .venv/bin/pip install -e ") for line in install)


def test_readme_names_every_verb_and_option() -> None:
    from kdplan.cli.parser import parser

    (verbs,) = [a.choices for a in parser()._actions if isinstance(a.choices, dict)]
    assert {c.split()[0] for c in COMMANDS} == set(verbs)
    below = [
        v for verb in verbs.values() for a in verb._actions if isinstance(a.choices, dict) for v in a.choices.values()
    ]
    known = {o for v in (*verbs.values(), *below) for a in v._actions for o in a.option_strings}
    named = set(re.findall(r"`[^`\n]*?(--[a-z-]+)", README)) - {"--no-cov"}
    assert named - known == set()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.split()[0] not in TRAINING])
def test_readme_command(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPLAN_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    for folder in ("plans", "examples"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    assert main(shlex.split(command)) == 0


@pytest.mark.slow
def test_readme_quickstart(tmp_path: Path) -> None:
    """Train, see that all is cached, change the weight, see why, hand out: as the README tells it."""
    shutil.copytree(ROOT / "plans", tmp_path / "plans")
    first = _kdplan(tmp_path, "run", "plans/quickstart.kd")
    assert first.returncode == 0 and "small@distil" in first.stdout, first.stdout + first.stderr
    began = time.monotonic()
    again = _kdplan(tmp_path, "run", "plans/quickstart.kd")
    assert again.returncode == 0 and "9 cached" in again.stdout and "small@distil" in again.stdout
    assert time.monotonic() - began < 3 * _slowness()
    assert _kdplan(tmp_path, *shlex.split("export plans/quickstart.kd tiny -o tiny")).returncode == 0
    assert (tmp_path / "tiny" / "model.safetensors").is_file()
    plan = tmp_path / "plans" / "quickstart.kd"
    plan.write_text(plan.read_text().replace("param weight = 0.9", "param weight = 0.5"))
    planned = json.loads(_kdplan(tmp_path, "plan", "plans/quickstart.kd", "--json").stdout)["phases"]
    changed = [p["name"] for p in planned if p["action"] != "cached"]
    assert changed == ["distil[seed=0]", "distil[seed=1]", "distil[seed=2]"]
    assert {p["action"] for p in planned} == {"rerun", "cached"}
    line = next(n for n, text in enumerate(plan.read_text().splitlines(), 1) if text.startswith("param weight"))
    assert f"quickstart.kd:{line}" in _kdplan(tmp_path, *shlex.split("why plans/quickstart.kd 'distil[seed=0]'")).stdout


def _kdplan(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "kdplan", *arguments], capture_output=True, text=True, cwd=folder, env=env
    )


def _slowness() -> float:
    """How much slower than usual this machine starts Python at this moment; 1 on an idle one."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import networkx, pydantic, rich.table"], check=True)
    return max(1.0, (time.monotonic() - began) / 0.6)


def test_files_of_the_architecture_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = {f for f in re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", text) if not f.startswith(("tests/", "kdplan/"))}
    assert len(files) > 40 and [f for f in sorted(files) if not (ROOT / "kdplan" / f).is_file()] == []
    tests = re.findall(r"`(test_[a-z_]+)`", text)
    known = (ROOT / "tests" / "test_adding.py").read_text(encoding="utf-8")
    assert len(tests) >= 12 and [t for t in tests if f"def {t}(" not in known] == []
