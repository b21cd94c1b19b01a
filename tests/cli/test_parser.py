"""The parser: every command and option is described, and leads to its function."""

from __future__ import annotations

import argparse
from importlib import import_module

import pytest

from kdplan.cli.parser import parser


def commands(of: argparse.ArgumentParser | None = None, head: str = "") -> dict[str, argparse.ArgumentParser]:
    """Every command by its words: `run`, `store ls`."""
    result = {}
    for action in (of or parser())._actions:
        for name, command in action.choices.items() if isinstance(action, argparse._SubParsersAction) else ():
            result |= commands(command, f"{head}{name} ") or {f"{head}{name}": command}
    return result


@pytest.mark.parametrize("name", commands())
def test_commands_and_options_are_described(name: str) -> None:
    command = commands()[name]
    assert command.description and command.description[0].isupper() and command.description.endswith(".")
    bare = [a.dest for a in command._actions if not a.help]
    assert bare == [], "options without a description"


@pytest.mark.parametrize("name", commands())
def test_each_command_calls_the_function_of_its_name(name: str) -> None:
    function = commands()[name].get_default("command")
    assert function.__name__ == name.rpartition(" ")[2].replace("-", "_")
    called = getattr(import_module(function.__module__), function.__name__)  # the parser imports it when it is called
    assert called.__doc__.startswith(f"`kdplan {name}"), "its docstring begins with how it is called"


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for name in commands():
        with pytest.raises(SystemExit):
            parser().parse_args([*name.split(), "--help"])
        assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
