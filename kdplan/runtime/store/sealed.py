"""JSON values that carry their hash: an altered one is as good as none.

What they hold spares work or is shown to people, and is never worth a failure: whatever is wrong with such a file, it
reads as a file that is not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from kdplan.ir.plan import Plain
from kdplan.runtime.store.atomic import digest_bytes, json_bytes, make_folder, plain, write, write_files

CHECK = "check"
"""The field of a line that holds the first 16 digits of its hash."""


def write_sealed(path: Path, value: dict[str, Plain]) -> None:
    """Writes `value` with its hash.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.json"
    >>> write_sealed(path, {"top1": 13.06})
    >>> read_sealed(path)
    {'top1': 13.06}
    >>> _ = path.write_text(path.read_text().replace("13", "93"))
    >>> read_sealed(path)
    {}
    """
    write(path, json_bytes(sealed(value)))


def write_sealed_files(values: Mapping[Path, dict[str, Plain]]) -> None:
    """`write_sealed` of many files, in folders that are made where they are missing."""
    for folder in dict.fromkeys(path.parent for path in values):
        make_folder(folder)
        write_files(folder, {p.name: json_bytes(sealed(value)) for p, value in values.items() if p.parent == folder})


def read_sealed(path: Path) -> dict[str, Plain]:
    """The value that `write_sealed` wrote; {} where the file is absent, altered, or of another kind."""
    return _opened(read_json(path))


def seal(value: dict[str, Plain]) -> bytes:
    """What `write_sealed` writes.

    >>> opened(seal({"top1": 13.06}))
    {'top1': 13.06}
    >>> opened(seal({"top1": 13.06}).replace(b"13", b"93"))
    {}
    """
    return json_bytes(sealed(value))


def sealed(value: dict[str, Plain]) -> dict[str, Plain]:
    """`value` with its hash, as it stands in a file."""
    value = plain(value)
    return {"sha256": digest_bytes(json_bytes(value)), "value": value}


def opened(content: bytes) -> dict[str, Plain]:
    """The inverse of `seal`; {} where the content was altered or is of another kind."""
    return _opened(parsed(content))


def _opened(data: Plain) -> dict[str, Plain]:
    if not isinstance(data, dict) or data.keys() != {"sha256", "value"} or not isinstance(data["value"], dict):
        return {}
    value: dict[str, Plain] = data["value"]
    return value if digest_bytes(json_bytes(value)) == data["sha256"] else {}


def read_json(path: Path) -> Plain:
    """The JSON value of a file, or None where it has none."""
    try:
        return parsed(path.read_bytes())
    except OSError:
        return None


def parsed(text: bytes) -> Plain:
    """A JSON value, or None where `text` is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def sealed_line(record: dict[str, Plain]) -> str:
    """A record as one line of JSON with its hash.

    >>> opened_line(sealed_line({"step": 3}).encode())
    {'step': 3}
    >>> opened_line(sealed_line({"step": 3}).replace("3", "4", 1).encode()) is None
    True
    """
    value = plain(record)
    return json.dumps(value | {CHECK: _check(value)}, ensure_ascii=False, allow_nan=False) + "\n"


def opened_line(line: bytes) -> dict[str, Plain] | None:
    """The record of a line, or None where it is no such record or was altered."""
    record = parsed(line)
    if not isinstance(record, dict):
        return None
    check = record.pop(CHECK, None)
    return record if check == _check(record) else None


def _check(record: dict[str, Plain]) -> str:
    return digest_bytes(json.dumps(record, ensure_ascii=False).encode())[:16]
