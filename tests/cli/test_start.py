"""What commands import before they do anything: the seconds of every start."""

from __future__ import annotations

import argparse
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from kdplan.cli.parser import parser

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "plans" / "quickstart.kd"


def imported(*arguments: str, cwd: Path, then: str = "") -> set[str]:
    """The modules of a process that ran one command, and after it `then`."""
    code = (
        f"import sys; from kdplan.cli import main\n"
        f"try: code = main({list(arguments)!r})\nexcept SystemExit as end: code = end.code or 0\n"
        f"{then}\n"
        f"assert code == 0, code\n"
        f"print('', '=', *sorted(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return set(done.stdout.rpartition(" = ")[2].split())


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart with one epoch and one seed."""
    plan = tmp_path_factory.mktemp("start") / "plan.kd"
    text = QUICKSTART.read_text(encoding="utf-8").replace("= 20", "= 1").replace("0..2", "0..0")
    plan.write_text(text, encoding="utf-8")
    return plan


HEAVY = {"torch", "numpy", "networkx", "pydantic", "lark", "kdplan.compile"}


def test_commands_about_text_and_the_store_import_no_compiler(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = short.parent
    monkeypatch.setenv("KDPLAN_CACHE", str(folder / "cache"))
    imported("fmt", "--check", str(QUICKSTART), cwd=folder)  # keeps the grammar's tables
    for command in (["--help"], ["run", "--help"], ["fmt", "--check", str(QUICKSTART)], ["store", "ls"]):
        assert not HEAVY & imported(*command, cwd=folder), command
    assert "rich" not in imported("fmt", "--check", str(QUICKSTART), cwd=folder)


def test_a_plan_is_read_without_torch(short: Path) -> None:
    modules = imported("plan", "--no-cost", str(short), cwd=short.parent)
    assert not {"torch", "pydantic"} & modules


def test_every_command_is_a_function() -> None:
    def functions(parser: argparse.ArgumentParser) -> Iterator[str]:
        for action in parser._actions:
            for below in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
                yield from functions(below)
        if (command := parser.get_default("command")) is not None:
            yield command.__name__
            modules = inspect.getclosurevars(command).nonlocals
            assert callable(getattr(import_module(f"kdplan.cli.{modules['self'].module}"), command.__name__))

    assert {"check", "run", "ls", "push", "fmt", "work", "export_workflow"} <= {*functions(parser())}


def test_the_compiler_is_not_imported_to_check_and_to_train(short: Path) -> None:
    for command in ("check", "run"):
        modules = imported(command, str(short), cwd=short.parent)
        assert "torch" in modules
        assert not {"torch._dynamo", "torch._inductor", "torch._dynamo.eval_frame"} & modules, command


COMPILED = """
import torch
from torch import nn
@torch.compile(backend="eager")
def double(x):
    return 2 * x
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        return self.fc(double(x.flatten(1)))
"""


def test_a_plan_whose_code_compiles_has_the_compiler(short: Path) -> None:
    folder = short.parent
    (folder / "net.py").write_text(COMPILED, encoding="utf-8")
    text = (
        short.read_text(encoding="utf-8")
        .replace("digits_net(width = 3)", "my.Net()")
        .replace("tiny = small", "t = small")
    )
    (folder / "compiled.kd").write_text(f'use "net.py" as my\n{text}', encoding="utf-8")
    modules = imported("run", "compiled.kd", cwd=folder)
    assert "torch._dynamo.eval_frame" in modules


def test_the_compiler_works_after_a_check(short: Path) -> None:
    then = (
        "import torch; f = torch.compile(lambda x: torch.optim.SGD([x], lr=0.1) and x * 2, backend='eager')\n"
        "assert f(torch.ones(2)).tolist() == [2, 2]\n"
        "from kdplan.graph.compiler import imported\n"
        "assert imported() is torch._dynamo is sys.modules['torch._dynamo'] is not None\n"
        "kept = [f for f in vars(torch.optim.Optimizer).values() if getattr(f, '__wrapped__', None)]\n"
        "assert not any(v is f.__wrapped__ for f in kept for v in vars(f.__wrapped__).values())"
    )
    imported("check", str(short), cwd=short.parent, then=then)
