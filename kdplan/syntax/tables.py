"""The parser's tables on disk: computing them takes longer than formatting a plan.

They are a file of the user's cache, named after all that they follow from: the grammar, the code that makes them, and
the installations of Lark and Python. So none is ever out of date, and nothing is lost where none can be kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def folder() -> Path | None:
    """The cache of kdplan's own files: in `KDPLAN_CACHE`, else in `~/.cache/kdplan`; None for a user without a home."""
    try:
        return Path(os.environ.get("KDPLAN_CACHE") or "~/.cache/kdplan").expanduser()
    except RuntimeError:
        return None


def name_of(grammar: str, code: str) -> str:
    """The name of the file with the tables of a grammar, as the source file `code` makes them; "" without sources."""
    try:
        text = "\0".join([grammar, Path(code).read_text(encoding="utf-8"), sys.version, _installed("lark")])
    except OSError:
        return ""
    return f"grammar-{_hash(text)[:32]}.json"


def _installed(package: str) -> str:
    """Which installation of a package this is; asking for its version takes longer than to read the tables."""
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    stat = os.stat(spec.origin)
    return f"{spec.origin} {stat.st_mtime_ns} {stat.st_size}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read(name: str) -> dict[str, Any] | None:
    """What a file of the cache holds; None where there is none, or where it is not as it was written."""
    where = folder()
    if where is None or not name:
        return None
    try:
        check, _, text = (where / name).read_text(encoding="utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    if check != _hash(text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content


def write(name: str, content: dict[str, Any]) -> None:
    """Keep `content` in a file of the cache, in one step; where that is not possible, nothing is kept."""
    where = folder()
    if where is None or not name:
        return
    text = json.dumps(content, separators=(",", ":"))
    temporary = None
    try:
        where.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=where, prefix=f"{name}.", delete=False, encoding="utf-8") as file:
            temporary = file.name
            file.write(f"{_hash(text)}\n{text}")
        os.replace(temporary, where / name)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
