"""What a command's exit code means."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `kdplan`; 3 (locked store) and 4 (corrupt store) come from the store's errors.

    >>> int(ExitCode.INTERRUPTED)
    75
    """

    DONE = 0
    FAILED = 1
    """A phase failed, or `fmt --check` would change a file."""
    INVALID = 2
    """The plan or the command has an error."""
    LOCKED = 3
    CORRUPT = 4
    TO_DO = 10
    """With `plan --detailed-exitcode`: phases remain to be trained."""
    INTERRUPTED = 75
    """The run was interrupted and can be resumed."""
