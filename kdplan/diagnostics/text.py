"""Text files as people have them."""

from __future__ import annotations

from pathlib import Path

ENCODING = "utf-8-sig"
"""UTF-8, without the byte order mark that some editors put at the start of a file."""


def read_text(path: Path) -> str:
    """The text of a file.

    Raises
    ------
    OSError, UnicodeDecodeError
        Where it cannot be read, or is not UTF-8.
    """
    return path.read_text(encoding=ENCODING)
