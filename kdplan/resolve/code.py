"""Hashes of the user's files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from kdplan.ir import user_code


def file_hash(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def code_of(codes: dict[str, str]) -> str | None:
    """One hash of a network's own code, given that of each of its parts."""
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest() if codes else None


def code_hash(factory: str) -> str | None:
    """The hash of the user's file or package that a factory is in, and of what that imports; None of other code."""
    where, _, _ = factory.rpartition(":")
    if where.endswith(".py"):
        return user_code.code(Path(where)).digest
    package = user_code.package_code(where) if where else None
    return package.digest if package is not None else None
