"""Every statement of `docs/your-own-code.md` is an example that holds."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "your-own-code.md"


def test_every_statement_holds(tmp_path: Path) -> None:
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, globs={"folder": tmp_path}, encoding="utf-8")
    assert tried > 40 and failed == 0
