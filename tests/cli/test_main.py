"""How `main` ends: exit codes of errors, interrupts and closed pipes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from kdplan.cli import ExitCode, language, main
from kdplan.diagnostics.report import error
from kdplan.runtime.store import Store
from kdplan.runtime.store.errors import StoreError
from tests.cli.conftest import Kdplan


def raising(problem: BaseException) -> Callable[[argparse.Namespace], int]:
    def command(arguments: argparse.Namespace) -> int:
        raise problem

    return command


def test_an_interrupt_is_resumable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "schema", raising(KeyboardInterrupt()))
    assert main(["schema"]) == ExitCode.INTERRUPTED == 75


def test_an_error_is_printed_as_text(monkeypatch: pytest.MonkeyPatch, kdplan: Kdplan) -> None:
    monkeypatch.setattr(language, "schema", raising(error("KD0015", None, code="KD1", nearest=None)))
    ran = kdplan("schema")
    assert ran.code == ExitCode.INVALID == 2 and ran.out == "" and "KD0015" in ran.err


def test_an_error_is_printed_as_json(kdplan: Kdplan) -> None:
    ran = kdplan("check", "none.kd", "--format", "json")
    assert ran.code == 2 and ran.err == "" and json.loads(ran.out)[0]["code"] == "KD0010"


def test_errors_of_the_store_have_exit_codes_of_their_own(kdplan: Kdplan, folder: Path) -> None:
    key = kdplan("plan", "a.kd", "--no-cost", "--json").phases["big@train"]["key"]
    with Store(folder / ".kdplan").begin(key), pytest.raises(StoreError) as locked:
        Store(folder / ".kdplan").begin(key)
    assert locked.value.exit_code == ExitCode.LOCKED and StoreError.exit_code == ExitCode.CORRUPT
